/** Which results take over memory, and the order of a program's instructions. */
import { Dependencies } from './dependencies.ts'
import type { LoweredInstruction, Lowering } from './lower.ts'
import { isVariable } from '../graph/node.ts'
import { baseOf } from './fusion-groups.ts'
import { inOrder } from './order.ts'
import { offerOperands, canStoreInPlace } from './in-place.ts'
import type { Pausing } from './pauses.ts'
import type { Buffer, Instruction } from './program.ts'
import type { Tensor } from '../graph/tensor.ts'
import { wholeView } from './views.ts'

/**
 * Orders an emitter's instructions and lets results take over memory: a variable's own where it is
 * assigned, an operand's where nothing else reads it.
 */
export class Scheduler {
  private readonly emitter: Lowering
  /** Buffers whose contents the caller puts in or takes out. */
  private readonly kept: ReadonlySet<Buffer>
  private readonly dependencies = new Dependencies()
  private readonly readers = new Map<Buffer, LoweredInstruction[]>()
  private readonly writers = new Map<Buffer, LoweredInstruction[]>()
  private registered = 0

  constructor(emitter: Lowering, kept: Iterable<Buffer>) {
    this.emitter = emitter
    this.kept = new Set(kept)
    this.register()
  }

  /** Makes variables take their values after the run. */
  *assign(assignments: ReadonlyMap<Tensor, Tensor>): Pausing<void> {
    // What is another variable's value now must be saved before that one is assigned.
    const values = [...assignments].map(([variable, tensor]) => {
      const base = baseOf(tensor)
      const moved = isVariable(base) && assignments.has(base)
      return { variable, tensor, saved: moved ? this.emitter.copy(tensor) : undefined }
    })
    this.register()
    for (const { variable, tensor, saved } of values) {
      yield
      const target = this.emitter.variable(variable)
      if (!saved && this.assignInPlace(target, tensor)) continue
      const readers = this.readers.get(target) ?? []
      this.emitter.addCopy(tensor, wholeView(target, tensor.shape), target, readers)
      this.register()
    }
  }

  /** The instructions in the order in which they run. */
  *instructions(): Pausing<Instruction[]> {
    this.register()
    this.aliasOperands()
    return yield* inOrder(
      this.emitter.instructions,
      instruction => this.dependencies.before(instruction),
      root => !root.variable && !this.kept.has(root),
    )
  }

  private register(): void {
    const added = this.emitter.instructions.slice(this.registered)
    this.registered += added.length
    this.dependencies.add(added)
    for (const instruction of added) {
      for (const buffer of instruction.reads) append(this.readers, buffer, instruction)
      for (const buffer of instruction.writes) append(this.writers, buffer, instruction)
    }
  }

  /** Results take over the memory of operands that only they read. To be called when all is emitted. */
  private aliasOperands(): void {
    const taken = new Set<Buffer>()
    // Others that write pieces of the result might do so before the operand is made.
    const mayTake = (into: Buffer) => !into.variable && !into.aliasOf && this.writers.get(into)?.length === 1
    const mayGive = (from: Buffer) =>
      !from.allocation.variable &&
      !this.kept.has(from) &&
      !taken.has(from) &&
      this.readers.get(from)?.length === 1
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
    for (const { work } of this.emitter.instructions) {
      if (work.kind === 'matmul' && work.addend) {
        const { a, b, c, addend } = work
        const same =
          c.offset === addend.offset &&
          c.rowStride === addend.rowStride &&
          c.batchStride === addend.batchStride
        if (same && a.buffer !== addend.buffer && b.buffer !== addend.buffer)
          takeOver(c.buffer, addend.buffer)
      }
      if (work.kind === 'scatterAdd' && work.base && work.values.buffer !== work.base.buffer)
        takeOver(work.out.buffer, work.base.buffer)
      if (work.kind === 'rows') offerOperands(work, mayTake, mayGive, take)
    }
  }

  /** Lets an instruction write a variable's new value over the old one. */
  private assignInPlace(target: Buffer, tensor: Tensor): boolean {
    const [writer, another] = this.dependencies.makersOf(tensor)
    const buffer = writer && !another ? this.emitter.view(tensor)?.buffer : undefined
    if (!buffer || buffer.variable || buffer.aliasOf || buffer.size !== target.size) return false
    // Pieces of a concat are written each in its own time.
    if (this.writers.get(buffer)?.length !== 1 || !canAssignInPlace(writer, target, buffer)) return false
    const others = (this.readers.get(target) ?? []).filter(reader => reader !== writer)
    if (others.some(reader => this.dependencies.dependsOn(reader, writer))) return false
    buffer.aliasOf = target
    for (const reader of others) this.dependencies.wait(writer, reader)
    return true
  }
}

/** Whether an instruction may write its result over a variable, which it may itself read. */
function canAssignInPlace({ work }: LoweredInstruction, target: Buffer, result: Buffer): boolean {
  if (work.kind === 'rows') {
    const store = work.stores.find(({ access }) => access.buffer === result)
    return store !== undefined && canStoreInPlace(work, target, store.access, store.value)
  }
  if (work.kind === 'matmul') {
    return work.a.buffer !== target && work.b.buffer !== target && work.addend?.buffer !== target
  }
  return (
    work.kind === 'scatterAdd' &&
    work.base?.buffer === target &&
    work.values.buffer !== target &&
    work.indices.buffer !== target
  )
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key)
  if (list) list.push(value)
  else lists.set(key, [value])
}
