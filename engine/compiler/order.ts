/** The order in which a program's instructions run. */
import type { LoweredInstruction } from './lowered.ts'
import { Heap } from './heap.ts'
import type { Pausing } from './pauses.ts'
import type { Buffer, Instruction } from './program.ts'

/** Growth in memory is compared in units of this many elements: smaller differences do not count. */
const memoryGrain = 1 << 18

/**
 * Orders instructions. Of those that are ready, it takes one of the earliest microbatch: first one that can be chained
 * to the last by blocks of rows, then the one that leaves the least memory in use, then the one of the earliest node.
 * That is why a chunk of the cross-entropy's gradient runs right after its loss.
 *
 * before: the instructions that must run before a given one. isTemporary: whether a buffer's memory is free once its
 * last reader has run.
 */
export function* inOrder(
  instructions: readonly LoweredInstruction[],
  before: (instruction: LoweredInstruction) => ReadonlySet<LoweredInstruction>,
  isTemporary: (root: Buffer) => boolean,
): Pausing<Instruction[]> {
  const remaining = new Map<LoweredInstruction, number>()
  const followers = new Map<LoweredInstruction, LoweredInstruction[]>()
  for (const instruction of instructions) {
    const others = before(instruction)
    remaining.set(instruction, others.size)
    for (const other of others) append(followers, other, instruction)
  }
  const queue = new Queue(instructions, isTemporary)
  for (const instruction of instructions) if (remaining.get(instruction) === 0) queue.add(instruction)
  const ordered: Instruction[] = []
  for (let next = queue.take(); next; next = queue.take()) {
    yield
    const { instruction, joins } = next
    const { work, reads, writes, partition, operations } = instruction
    ordered.push({
      work,
      reads,
      writes,
      rowBlock: partition?.rowBlock,
      sharesRowBlocks: joins,
      ...(operations && { operations }),
    })
    for (const follower of followers.get(instruction) ?? []) {
      const left = (remaining.get(follower) ?? 0) - 1
      remaining.set(follower, left)
      if (left === 0) queue.add(follower)
    }
  }
  if (ordered.length !== instructions.length)
    throw new Error('the instructions depend on each other in a cycle')
  return ordered
}

/** An instruction that is ready, and what its priority depends on. */
interface Choice {
  readonly instruction: LoweredInstruction
  /** By how much memory in use grows when it runs, in grains. */
  readonly growth: number
  /** How many were ready before it. */
  readonly number: number
}

function isBetter(a: Choice, b: Choice): boolean {
  const [first, second] = [a.instruction, b.instruction]
  if (first.microbatch !== second.microbatch) return first.microbatch < second.microbatch
  if (a.growth !== b.growth) return a.growth < b.growth
  if (first.order !== second.order) return first.order < second.order
  return a.number < b.number
}

/** The instructions that are ready, as a priority queue. Running one changes the priorities of a few others. */
class Queue {
  private readonly isTemporary: (root: Buffer) => boolean
  /** The instructions that are ready. A choice in a heap that is not the one here is out of date. */
  private readonly choices = new Map<LoweredInstruction, Choice>()
  private readonly all = new Heap(isBetter)
  /** Those that continued the chain when last checked. One that does not continue it never will. */
  private readonly joining = new Heap(isBetter)
  private readonly isJoining = new Map<LoweredInstruction, boolean>()
  /** The instructions that are ready, by the memory that they read or write. */
  private readonly readers = new Map<Buffer, Set<LoweredInstruction>>()
  private readonly writers = new Map<Buffer, Set<LoweredInstruction>>()
  /** How many instructions have yet to read a buffer. */
  private readonly readsLeft = new Map<Buffer, number>()
  private readonly allocated = new Set<Buffer>()
  private chain = new RowBlockChain()
  private added = 0

  constructor(instructions: readonly LoweredInstruction[], isTemporary: (root: Buffer) => boolean) {
    this.isTemporary = isTemporary
    for (const { reads } of instructions)
      for (const { allocation } of reads)
        this.readsLeft.set(allocation, (this.readsLeft.get(allocation) ?? 0) + 1)
  }

  add(instruction: LoweredInstruction): void {
    this.choose(instruction, this.added++)
    for (const { allocation } of instruction.reads) addTo(this.readers, allocation, instruction)
    for (const { allocation } of instruction.writes) addTo(this.writers, allocation, instruction)
    this.consider(instruction)
  }

  /** Removes the instruction that runs next. joins: whether it is chained to the last one. */
  take(): { readonly instruction: LoweredInstruction; readonly joins: boolean } | undefined {
    const best = this.firstOf(this.all)
    if (!best) return undefined
    const joining = this.firstJoining(best.instruction.microbatch)
    const { instruction } = joining ?? best
    this.run(instruction, joining !== undefined)
    return { instruction, joins: joining !== undefined }
  }

  /** The best instruction of a microbatch that continues the chain. */
  private firstJoining(microbatch: number): Choice | undefined {
    for (let choice = this.firstOf(this.joining); choice; choice = this.firstOf(this.joining)) {
      if (choice.instruction.microbatch !== microbatch) return undefined
      if (this.chain.continues(choice.instruction)) return choice
      this.joining.pop()
      this.isJoining.set(choice.instruction, false)
    }
    return undefined
  }

  private firstOf(heap: Heap<Choice>): Choice | undefined {
    while (heap.first && this.choices.get(heap.first.instruction) !== heap.first) heap.pop()
    return heap.first
  }

  private run(instruction: LoweredInstruction, joins: boolean): void {
    const { reads, writes } = instruction
    this.choices.delete(instruction)
    for (const { allocation } of reads) this.readers.get(allocation)?.delete(instruction)
    for (const { allocation } of writes) this.writers.get(allocation)?.delete(instruction)
    if (!joins) {
      this.chain = new RowBlockChain()
      this.joining.clear()
      this.isJoining.clear()
    }
    this.chain.add(instruction)

    const changed = new Set<LoweredInstruction>()
    for (const { allocation } of writes) {
      if (this.allocated.has(allocation)) continue
      this.allocated.add(allocation)
      if (this.isTemporary(allocation))
        for (const other of this.writers.get(allocation) ?? []) changed.add(other)
    }
    for (const { allocation } of reads)
      this.readsLeft.set(allocation, (this.readsLeft.get(allocation) ?? 0) - 1)
    for (const { allocation } of reads) {
      if (this.readsLeft.get(allocation) === 1 && this.isTemporary(allocation))
        for (const other of this.readers.get(allocation) ?? []) changed.add(other)
    }
    for (const other of changed) {
      this.choose(other, this.choices.get(other)?.number ?? 0)
      const choice = this.choices.get(other)
      if (choice && this.isJoining.get(other)) this.joining.push(choice)
    }
    for (const { allocation } of writes)
      for (const other of this.readers.get(allocation) ?? []) this.consider(other)
  }

  private choose(instruction: LoweredInstruction, number: number): void {
    const choice = { instruction, growth: this.growth(instruction), number }
    this.choices.set(instruction, choice)
    this.all.push(choice)
  }

  /** Checks whether an instruction continues the chain, if it reads what the chain has written. */
  private consider(instruction: LoweredInstruction): void {
    const choice = this.choices.get(instruction)
    if (!choice || this.isJoining.has(instruction) || !this.chain.feeds(instruction)) return
    const continues = this.chain.continues(instruction)
    this.isJoining.set(instruction, continues)
    if (continues) this.joining.push(choice)
  }

  /** By how much memory in use grows when an instruction runs, in grains. */
  private growth({ reads, writes }: LoweredInstruction): number {
    let elements = 0
    for (const { allocation } of writes)
      if (this.isTemporary(allocation) && !this.allocated.has(allocation)) elements += allocation.size
    for (const { allocation } of reads)
      if (this.isTemporary(allocation) && this.readsLeft.get(allocation) === 1) elements -= allocation.size
    return Math.round(elements / memoryGrain)
  }
}

/** Instructions that a thread runs one after the other on each block of rows. */
class RowBlockChain {
  private rows = 0
  private rowBlock = 0
  /** The memory that they use: how it divides into rows, and whether one of them writes it. */
  private readonly touched = new Map<
    Buffer,
    { readonly key: string | undefined; readonly written: boolean }
  >()

  /** Whether an instruction reads what this chain wrote. */
  feeds({ reads }: LoweredInstruction): boolean {
    return reads.some(({ allocation }) => this.touched.get(allocation)?.written)
  }

  /** Whether an instruction reads what this chain wrote, and each block only from the same block. */
  continues(instruction: LoweredInstruction): boolean {
    const { partition, reads, writes } = instruction
    if (!partition || partition.rows !== this.rows || partition.rowBlock !== this.rowBlock) return false
    const agrees = (buffer: Buffer, writing: boolean) => {
      const before = this.touched.get(buffer.allocation)
      return (
        !before ||
        !(writing || before.written) ||
        (before.key !== undefined && before.key === partition.aligned.get(buffer))
      )
    }
    return (
      this.feeds(instruction) &&
      reads.every(buffer => agrees(buffer, false)) &&
      writes.every(buffer => agrees(buffer, true))
    )
  }

  add({ partition, reads, writes }: LoweredInstruction): void {
    if (partition) [this.rows, this.rowBlock] = [partition.rows, partition.rowBlock]
    const touch = (buffer: Buffer, writes: boolean) => {
      const key = partition?.aligned.get(buffer)
      const before = this.touched.get(buffer.allocation)
      const same = !before || before.key === key
      this.touched.set(buffer.allocation, {
        key: same ? key : undefined,
        written: writes || (before?.written ?? false),
      })
    }
    for (const buffer of reads) touch(buffer, false)
    for (const buffer of writes) touch(buffer, true)
  }
}

function addTo<K, V>(sets: Map<K, Set<V>>, key: K, value: V): void {
  const set = sets.get(key)
  if (set) set.add(value)
  else sets.set(key, new Set([value]))
}

function append<K, V>(lists: Map<K, V[]>, key: K, value: V): void {
  const list = lists.get(key)
  if (list) list.push(value)
  else lists.set(key, [value])
}
