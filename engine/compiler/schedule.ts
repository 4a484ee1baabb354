/** Which results take over memory, and the order of a program's instructions. */
import { Dependencies } from './dependencies.ts'
import { offerOperands, canStoreInPlace } from './in-place.ts'
import type { Assignment, LoweredGraph, LoweredInstruction } from './lowered.ts'
import { inOrder } from './order.ts'
import type { Pausing } from './pauses.ts'
import type { Buffer, Instruction } from './program.ts'

/**
 * Orders a graph's instructions, and lets results take over memory: a variable's own where it is assigned, an
 * operand's where nothing else reads it.
 */
export function* schedule(graph: LoweredGraph): Pausing<Instruction[]> {
  const scheduler = new Scheduler(graph)
  yield* scheduler.assign(graph.assignments)
  scheduler.aliasOperands()
  return yield* scheduler.instructions()
}

class Scheduler {
  private readonly lowered: Set<LoweredInstruction>
  /** Buffers whose contents the caller writes or reads. */
  private readonly kept: ReadonlySet<Buffer>
  private readonly dependencies = new Dependencies()
  private readonly readers = new Map<Buffer, Set<LoweredInstruction>>()
  private readonly writers = new Map<Buffer, Set<LoweredInstruction>>()

  constructor({ instructions, inputs, outputs }: LoweredGraph) {
    this.lowered = new Set(instructions)
    this.kept = new Set([...inputs, ...outputs.map(({ buffer }) => buffer)])
    this.dependencies.add(instructions)
    for (const instruction of instructions) {
      for (const buffer of instruction.reads) addTo(this.readers, buffer, instruction)
      for (const buffer of instruction.writes) addTo(this.writers, buffer, instruction)
    }
  }

  /** Makes variables take their new values after all instructions that read the old ones. */
  *assign(assignments: readonly Assignment[]): Pausing<void> {
    for (const assignment of assignments) {
      yield
      const { target, copy } = assignment
      if (this.assignInPlace(assignment)) this.remove(copy)
      else for (const reader of this.readersOf(target)) this.dependencies.wait(copy, reader)
    }
  }

  /** The instructions in the order in which they run. */
  instructions(): Pausing<Instruction[]> {
    return inOrder(
      [...this.lowered],
      instruction => this.dependencies.before(instruction),
      root => !root.variable && !this.kept.has(root),
    )
  }

  /** Lets results take over the memory of operands that nothing else reads. */
  aliasOperands(): void {
    const taken = new Set<Buffer>()
    // If several instructions write a result, another one might do so before the operand is made.
    const mayTake = (into: Buffer) => !into.variable && !into.aliasOf && this.writers.get(into)?.size === 1
    const mayGive = (from: Buffer) =>
      !from.allocation.variable && !this.kept.has(from) && !taken.has(from) && this.readersOf(from).size === 1
    const take = (into: Buffer, from: Buffer): boolean => {
      // A GPU's memory is of one type.
      if (from.size !== into.size || from.dtype !== into.dtype || from.allocation === into.allocation)
        return false
      into.aliasOf = from
      taken.add(from)
      return true
    }
    const takeOver = (into: Buffer, from: Buffer) => {
      if (mayTake(into) && mayGive(from)) take(into, from)
    }
    for (const { work } of this.lowered) {
      if (work.kind === 'matmul' && work.addend) {
        const { a, b, c, addend } = work
        const isSamePlace =
          c.offset === addend.offset &&
          c.rowStride === addend.rowStride &&
          c.batchStride === addend.batchStride
        if (isSamePlace && a.buffer !== addend.buffer && b.buffer !== addend.buffer)
          takeOver(c.buffer, addend.buffer)
      }
      if (work.kind === 'scatterAdd' && work.base && work.values.buffer !== work.base.buffer)
        takeOver(work.out.buffer, work.base.buffer)
      if (work.kind === 'rows') offerOperands(work, mayTake, mayGive, take)
    }
  }

  /** Lets an instruction write a variable's new value over the old one, if it may. */
  private assignInPlace({ target, tensor, computed }: Assignment): boolean {
    const [writer, another] = this.dependencies.makersOf(tensor)
    if (!computed || !writer || another) return false
    if (computed.variable || computed.aliasOf || computed.size !== target.size) return false
    // The inputs of a concat are written at different times.
    if (this.writers.get(computed)?.size !== 1 || !canAssignInPlace(writer, target, computed)) return false
    const others = [...this.readersOf(target)].filter(reader => reader !== writer)
    if (others.some(reader => this.dependencies.dependsOn(reader, writer))) return false
    computed.aliasOf = target
    for (const reader of others) this.dependencies.wait(writer, reader)
    return true
  }

  private readersOf(buffer: Buffer): ReadonlySet<LoweredInstruction> {
    return this.readers.get(buffer) ?? new Set()
  }

  /** Leaves out an instruction that nothing depends on. */
  private remove(instruction: LoweredInstruction): void {
    this.lowered.delete(instruction)
    for (const buffer of instruction.reads) this.readers.get(buffer)?.delete(instruction)
    for (const buffer of instruction.writes) this.writers.get(buffer)?.delete(instruction)
  }
}

/** Whether an instruction may write its result over a variable, which it may itself read. */
function canAssignInPlace({ work }: LoweredInstruction, target: Buffer, result: Buffer): boolean {
  switch (work.kind) {
    case 'rows': {
      const store = work.stores.find(({ access }) => access.buffer === result)
      return store !== undefined && canStoreInPlace(work, target, store.access, store.value)
    }
    case 'matmul':
      return work.a.buffer !== target && work.b.buffer !== target && work.addend?.buffer !== target
    case 'scatterAdd':
      return work.base?.buffer === target && work.values.buffer !== target && work.indices.buffer !== target
    case 'attention':
    case 'attentionGradient':
      return false
  }
}

function addTo<K, V>(sets: Map<K, Set<V>>, key: K, value: V): void {
  const set = sets.get(key)
  if (set) set.add(value)
  else sets.set(key, new Set([value]))
}
