/** Which instructions have to run before which, and whether one has to run after another. */
import type { LoweredInstruction } from './lower.ts'
import { baseOf } from './fusion-groups.ts'
import type { Buffer } from './program.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * The graph of instructions. Each has a place in a topological order, which is kept up to date as instructions and
 * further constraints are added (Pearce and Kelly 2006): most questions are answered by two places, and the others by
 * a search between them.
 */
export class Dependencies {
  private readonly makers = new Map<Tensor | Buffer, LoweredInstruction[]>()
  private readonly earlier = new Map<LoweredInstruction, Set<LoweredInstruction>>()
  private readonly later = new Map<LoweredInstruction, LoweredInstruction[]>()
  private readonly places = new Map<LoweredInstruction, number>()

  /** The instructions that make a tensor or fill a buffer. */
  makersOf(made: Tensor | Buffer): readonly LoweredInstruction[] {
    return this.makers.get(made) ?? []
  }

  /** Takes in instructions, which may need each other and all before, but none that comes later. */
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
    // It grows as it is gone through.
    for (const instruction of ready) {
      this.places.set(instruction, this.places.size)
      for (const other of this.after(instruction)) {
        const left = (waiting.get(other) ?? 0) - 1
        waiting.set(other, left)
        if (left === 0) ready.push(other)
      }
    }
    if (ready.length < instructions.length)
      throw new Error('the instructions depend on each other in a circle')
  }

  /** The instructions that must have run before one can. */
  before(instruction: LoweredInstruction): ReadonlySet<LoweredInstruction> {
    return this.earlier.get(instruction) ?? new Set()
  }

  /** Whether an instruction can run only after another. */
  dependsOn(instruction: LoweredInstruction, other: LoweredInstruction): boolean {
    const place = this.place(other)
    const isBetween = (next: LoweredInstruction) => this.place(next) >= place
    return isBetween(instruction) && search(instruction, next => this.before(next), isBetween).has(other)
  }

  /** Makes an instruction wait for another, which must not depend on it. */
  wait(instruction: LoweredInstruction, other: LoweredInstruction): void {
    const earlier = this.earlier.get(instruction)
    if (!earlier || earlier.has(other)) return
    earlier.add(other)
    append(this.later, other, instruction)
    const [start, end] = [this.place(instruction), this.place(other)]
    if (end < start) return
    // What the other waits for changes places with what waits for the instruction, as far as they lie between the two.
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
    const earlier = new Set(instruction.after)
    const seen = new Set<Tensor | Buffer>()
    const pending = [...instruction.needs]
    for (let needed = pending.pop(); needed; needed = pending.pop()) {
      if (seen.has(needed)) continue
      seen.add(needed)
      for (const maker of this.makersOf(needed)) earlier.add(maker)
      // A concat is made by whatever makes its pieces.
      if (needed instanceof Tensor && needed.operation.kind === 'concat')
        for (const piece of needed.inputs) pending.push(baseOf(piece))
    }
    earlier.delete(instruction)
    return earlier
  }
}

/** All that is found from a start, by way of what is allowed. */
function search(
  start: LoweredInstruction,
  next: (from: LoweredInstruction) => Iterable<LoweredInstruction>,
  isAllowed: (found: LoweredInstruction) => boolean,
): Set<LoweredInstruction> {
  const found = new Set([start])
  // It grows as it is gone through.
  for (const from of found) for (const to of next(from)) if (isAllowed(to)) found.add(to)
  return found
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key)
  if (list) list.push(value)
  else lists.set(key, [value])
}
