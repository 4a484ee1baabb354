import type { Emitted, Emitter } from './emit.ts'
import { isVariable } from './graph.ts'
import { baseOf } from './groups.ts'
import { overwritable } from './overwrite.ts'
import type { Buffer, Instruction } from './program.ts'
import { Tensor } from './tensor.ts'
import type { Variable } from './variable.ts'
import { wholeView } from './views.ts'

/** Elements of memory that count as none when instructions are ordered by the memory they leave. */
const memoryGrain = 1 << 18

/**
 * Orders an emitter's instructions and lets results take over memory: a variable's own where it is
 * assigned, an operand's where nothing else reads it.
 *
 * Of the instructions that could run next, one that continues the last one's blocks of rows goes
 * first, then the one that leaves the least memory in use. That is what runs a chunk of the
 * cross-entropy's gradient right after its loss.
 */
export class Scheduler {
  private readonly emitter: Emitter
  /** Buffers whose contents the caller puts in or takes out. */
  private readonly kept: ReadonlySet<Buffer>
  private readonly makers = new Map<Tensor | Buffer, Emitted[]>()
  private readonly readers = new Map<Buffer, Emitted[]>()
  private readonly writers = new Map<Buffer, Emitted[]>()
  private registered = 0

  constructor(emitter: Emitter, kept: Iterable<Buffer>) {
    this.emitter = emitter
    this.kept = new Set(kept)
    this.register()
  }

  /** Makes variables take their values after the run. */
  assign(assignments: ReadonlyMap<Variable, Tensor>): void {
    // What is another variable's value now must be saved before that one is assigned.
    const values = [...assignments].map(([variable, tensor]) => {
      const base = baseOf(tensor)
      const moved = isVariable(base) && assignments.has(base)
      return { variable, tensor, saved: moved ? this.emitter.copy(tensor) : undefined }
    })
    this.register()
    for (const { variable, tensor, saved } of values) {
      const target = this.emitter.variable(variable)
      if (!saved && this.assignInPlace(target, tensor)) continue
      const readers = this.readers.get(target) ?? []
      this.emitter.emitCopy(tensor, wholeView(target, tensor.shape), target, readers)
      this.register()
    }
  }

  /** The instructions in the order in which they run. */
  instructions(): Instruction[] {
    const { instructions } = this.emitter
    this.reuseOperands()
    const remaining = new Map<Emitted, number>()
    const followers = new Map<Emitted, Emitted[]>()
    for (const instruction of instructions) {
      const before = this.before(instruction)
      remaining.set(instruction, before.size)
      for (const other of before) append(followers, other, instruction)
    }
    const readersLeft = new Map<Buffer, number>()
    for (const { reads } of instructions)
      for (const { root } of reads) readersLeft.set(root, (readersLeft.get(root) ?? 0) + 1)
    const allocated = new Set<Buffer>()
    const isTemporary = (root: Buffer) => !root.variable && !this.kept.has(root)
    /** Memory in use after an instruction, less that before it. */
    const growth = ({ reads, writes }: Emitted): number => {
      let elements = 0
      for (const { root } of writes) if (isTemporary(root) && !allocated.has(root)) elements += root.size
      for (const { root } of reads)
        if (isTemporary(root) && readersLeft.get(root) === 1) elements -= root.size
      return Math.round(elements / memoryGrain)
    }
    const ready = instructions.filter(instruction => remaining.get(instruction) === 0)
    const ordered: Instruction[] = []
    let phase = new Phase()
    while (ready.length > 0) {
      const stage = Math.min(...ready.map(instruction => instruction.stage))
      const current = ready.filter(instruction => instruction.stage === stage)
      const choices = current.map(instruction => ({
        instruction,
        joins: phase.continues(instruction),
        growth: growth(instruction),
      }))
      const { instruction, joins } = choices.reduce((best, other) => {
        if (best.joins !== other.joins) return best.joins ? best : other
        if (best.growth !== other.growth) return best.growth < other.growth ? best : other
        return best.instruction.rank <= other.instruction.rank ? best : other
      })
      ready.splice(ready.indexOf(instruction), 1)
      if (!joins) phase = new Phase()
      phase.add(instruction)
      const { work, reads, writes } = instruction
      ordered.push({ work, reads, writes, joins })
      for (const { root } of writes) allocated.add(root)
      for (const { root } of reads) readersLeft.set(root, (readersLeft.get(root) ?? 0) - 1)
      for (const follower of followers.get(instruction) ?? []) {
        const left = (remaining.get(follower) ?? 0) - 1
        remaining.set(follower, left)
        if (left === 0) ready.push(follower)
      }
    }
    if (ordered.length !== instructions.length)
      throw new Error('the instructions depend on each other in a circle')
    return ordered
  }

  private register(): void {
    const { instructions } = this.emitter
    for (; this.registered < instructions.length; this.registered++) {
      const instruction = instructions[this.registered]
      for (const made of instruction.makes) append(this.makers, made, instruction)
      for (const buffer of instruction.reads) append(this.readers, buffer, instruction)
      for (const buffer of instruction.writes) append(this.writers, buffer, instruction)
    }
  }

  /** Results take over the memory of operands that only they read. To be called when all is emitted. */
  private reuseOperands(): void {
    const taken = new Set<Buffer>()
    const takeOver = (into: Buffer, from: Buffer) => {
      const free =
        !from.root.variable && !into.variable && !this.kept.has(from) && !taken.has(from) && !into.shares
      const alike = from.size === into.size && from.dtype === into.dtype
      if (!free || !alike || from.root === into.root || this.readers.get(from)?.length !== 1) return
      // A GPU's memory is of one type.
      if (from.dtype !== into.dtype) return
      // Others that write pieces of the result might do so before the operand is made.
      if (this.writers.get(into)?.length !== 1) return
      into.shares = from
      taken.add(from)
    }
    for (const { work } of this.emitter.instructions) {
      if (work.kind === 'matmul' && work.residual) {
        const { a, b, c, residual } = work
        const same =
          c.offset === residual.offset &&
          c.rowStride === residual.rowStride &&
          c.batchStride === residual.batchStride
        if (same && a.buffer !== residual.buffer && b.buffer !== residual.buffer)
          takeOver(c.buffer, residual.buffer)
      }
      if (work.kind === 'scatterAdd' && work.base && work.values.buffer !== work.base.buffer)
        takeOver(work.out.buffer, work.base.buffer)
      if (work.kind === 'rows') {
        for (const { access, value } of work.stores) {
          for (const { operation } of work.values) {
            if (operation.kind !== 'load' || !operation.access.buffer || !access.buffer) continue
            if (overwritable(work, operation.access.buffer, access, value))
              takeOver(access.buffer, operation.access.buffer)
          }
        }
      }
    }
  }

  /** Lets an instruction write a variable's new value over the old one. */
  private assignInPlace(target: Buffer, tensor: Tensor): boolean {
    const maker = this.makers.get(tensor)
    const buffer = maker?.length === 1 ? this.emitter.view(tensor)?.buffer : undefined
    if (!maker || !buffer || buffer.variable || buffer.shares || buffer.size !== target.size) return false
    const [writer] = maker
    // Pieces of a concat are written each in its own time.
    if (this.writers.get(buffer)?.length !== 1 || !writesOver(writer, target, buffer)) return false
    const others = (this.readers.get(target) ?? []).filter(reader => reader !== writer)
    if (others.some(reader => this.dependsOn(reader, writer))) return false
    buffer.shares = target
    for (const reader of others) writer.after.add(reader)
    return true
  }

  /** The instructions that must have run before one can. */
  private before(instruction: Emitted): Set<Emitted> {
    const before = new Set(instruction.after)
    const visit = (needed: Tensor | Buffer) => {
      for (const maker of this.makers.get(needed) ?? []) before.add(maker)
      // A concat is made by whatever makes its pieces.
      if (needed instanceof Tensor && needed.operation.kind === 'concat')
        for (const piece of needed.inputs) visit(baseOf(piece))
    }
    instruction.needs.forEach(visit)
    before.delete(instruction)
    return before
  }

  private dependsOn(instruction: Emitted, other: Emitted): boolean {
    const seen = new Set<Emitted>()
    const pending = [instruction]
    for (let next = pending.pop(); next; next = pending.pop()) {
      if (next === other) return true
      if (seen.has(next)) continue
      seen.add(next)
      pending.push(...this.before(next))
    }
    return false
  }
}

/** Whether an instruction may write its result over a variable, which it may itself read. */
function writesOver({ work }: Emitted, target: Buffer, result: Buffer): boolean {
  if (work.kind === 'rows') {
    const store = work.stores.find(({ access }) => access.buffer === result)
    return store !== undefined && overwritable(work, target, store.access, store.value)
  }
  if (work.kind === 'matmul') {
    return work.a.buffer !== target && work.b.buffer !== target && work.residual?.buffer !== target
  }
  return (
    work.kind === 'scatterAdd' &&
    work.base?.buffer === target &&
    work.values.buffer !== target &&
    work.indices.buffer !== target
  )
}

/** Instructions that run one after the other on each block of rows. */
class Phase {
  private rows = 0
  private rowBlock = 0
  /** Memory touched so far: how its rows lie, and whether it was written. */
  private readonly touched = new Map<
    Buffer,
    { readonly key: string | undefined; readonly written: boolean }
  >()

  /** Whether an instruction takes up what this phase wrote, each block from the same block. */
  continues({ partition, reads, writes }: Emitted): boolean {
    if (!partition || partition.rows !== this.rows || partition.rowBlock !== this.rowBlock) return false
    const agrees = (buffer: Buffer, writing: boolean) => {
      const before = this.touched.get(buffer.root)
      return (
        !before ||
        !(writing || before.written) ||
        (before.key !== undefined && before.key === partition.aligned.get(buffer))
      )
    }
    const follows = reads.some(({ root }) => this.touched.get(root)?.written)
    return (
      follows && reads.every(buffer => agrees(buffer, false)) && writes.every(buffer => agrees(buffer, true))
    )
  }

  add({ partition, reads, writes }: Emitted): void {
    if (partition) [this.rows, this.rowBlock] = [partition.rows, partition.rowBlock]
    const touch = (buffer: Buffer, writes: boolean) => {
      const key = partition?.aligned.get(buffer)
      const before = this.touched.get(buffer.root)
      const same = !before || before.key === key
      this.touched.set(buffer.root, {
        key: same ? key : undefined,
        written: writes || (before?.written ?? false),
      })
    }
    for (const buffer of reads) touch(buffer, false)
    for (const buffer of writes) touch(buffer, true)
  }
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key)
  if (list) list.push(value)
  else lists.set(key, [value])
}
