/** The constraints on the order of instructions: which must run before which. */
import type { LoweredInstruction, Value } from './lowered.ts'
import { baseOf } from './fusion-groups.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * The dependency graph of instructions. It keeps a topological order up to date as constraints are added (Pearce and
 * Kelly 2006). So most questions take a comparison of two places in it, and the others a search between the two.
 */
export class Dependencies {
  private readonly makers = new Map<Value, LoweredInstruction[]>()
  private readonly earlier = new Map<LoweredInstruction, Set<LoweredInstruction>>()
  private readonly later = new Map<LoweredInstruction, LoweredInstruction[]>()
  private readonly places = new Map<LoweredInstruction, number>()

  /** The instructions that compute a tensor or fill a buffer. */
  makersOf(made: Value): readonly LoweredInstruction[] {
    return this.makers.get(made) ?? []
  }

  /** Adds instructions. They may depend on each other and on earlier ones, but not on ones that are added later. */
  add(instructions: readonly LoweredInstruction[]): void {
    for (const instruction of instructions)
      for (const made of instruction.makes) append(this.makers, made, instruction)
    const waiting = new Map<LoweredInstruction, number>()
    for (const instruction of instructions) {
      const earlier = this.findEarlier(instruction)
      this.earlier.set(instruction, earlier)
      let count = 0
      for (const other of earlier) {
        append(this.later, other, instruction)
        if (!this.places.has(other)) count++
      }
      waiting.set(instruction, count)
    }
    const ready = instructions.filter(instruction => waiting.get(instruction) === 0)
    // The loop appends to the list.
    for (const instruction of ready) {
      this.places.set(instruction, this.places.size)
      for (const other of this.after(instruction)) {
        const left = (waiting.get(other) ?? 0) - 1
        waiting.set(other, left)
        if (left === 0) ready.push(other)
      }
    }
    if (ready.length < instructions.length)
      throw new Error('the instructions depend on each other in a cycle')
  }

  /** The instructions that must run before a given one. */
  before(instruction: LoweredInstruction): ReadonlySet<LoweredInstruction> {
    return this.earlier.get(instruction) ?? new Set()
  }

  /** Whether an instruction depends on another, directly or through others. */
  dependsOn(instruction: LoweredInstruction, other: LoweredInstruction): boolean {
    const place = this.place(other)
    const isBetween = (next: LoweredInstruction) => this.place(next) >= place
    return isBetween(instruction) && search(instruction, next => this.before(next), isBetween).has(other)
  }

  /** Makes an instruction run after another, which must not depend on it. */
  wait(instruction: LoweredInstruction, other: LoweredInstruction): void {
    const earlier = this.earlier.get(instruction)
    if (!earlier || earlier.has(other)) return
    earlier.add(other)
    append(this.later, other, instruction)
    const [start, end] = [this.place(instruction), this.place(other)]
    if (end < start) return
    // Of the instructions between the two places, those that the other depends on move before those that depend on this.
    const first = search(
      other,
      next => this.before(next),
      next => this.place(next) > start,
    )
    const then = search(
      instruction,
      next => this.after(next),
      next => this.place(next) < end,
    )
    const byPlace = (a: LoweredInstruction, b: LoweredInstruction) => this.place(a) - this.place(b)
    const moved = [...[...first].sort(byPlace), ...[...then].sort(byPlace)]
    const places = moved.map(next => this.place(next)).sort((a, b) => a - b)
    moved.forEach((next, i) => this.places.set(next, places[i]))
  }

  private after(instruction: LoweredInstruction): readonly LoweredInstruction[] {
    return this.later.get(instruction) ?? []
  }

  private place(instruction: LoweredInstruction): number {
    return this.places.get(instruction) ?? 0
  }

  private findEarlier(instruction: LoweredInstruction): Set<LoweredInstruction> {
    const earlier = new Set<LoweredInstruction>()
    const seen = new Set<Value>()
    const pending = [...instruction.needs]
    for (let needed = pending.pop(); needed; needed = pending.pop()) {
      if (seen.has(needed)) continue
      seen.add(needed)
      for (const maker of this.makersOf(needed)) earlier.add(maker)
      // The instructions that compute a concat's inputs write them into the concat.
      if (needed instanceof Tensor && needed.operation.kind === 'concat')
        for (const input of needed.inputs) pending.push(baseOf(input))
    }
    earlier.delete(instruction)
    return earlier
  }
}

/** All instructions that can be reached from one through allowed ones. */
function search(
  start: LoweredInstruction,
  next: (from: LoweredInstruction) => Iterable<LoweredInstruction>,
  isAllowed: (found: LoweredInstruction) => boolean,
): Set<LoweredInstruction> {
  const found = new Set([start])
  // The loop appends to the set.
  for (const from of found) for (const to of next(from)) if (isAllowed(to)) found.add(to)
  return found
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key)
  if (list) list.push(value)
  else lists.set(key, [value])
}
