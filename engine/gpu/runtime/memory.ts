import type { Buffer } from '../../compiler/program.ts'
import { Timeline } from '../../compiler/timeline.ts'
import { type Dispatch, type TypeOf, bytesOf } from '../kernels/kernel.ts'

/** Where temporaries go: each one's or its arena's number, and the bytes of each numbered piece of memory, the largest first. */
export interface Placement {
  readonly slots: ReadonlyMap<Buffer, number>
  readonly sizes: readonly number[]
}

/**
 * Gives temporaries memory: those whose lives do not overlap may have the same piece. The largest are placed first,
 * each in the smallest piece that is free and holds it. Whole pieces rather than ranges of one, since WebGPU tracks
 * memory by GPUBuffer: kernels that share none may run at the same time. held: alive throughout; homeOf: the arena that a
 * buffer is in, or itself.
 */
export function placeBuffers(
  dispatches: readonly Dispatch[],
  held: readonly Buffer[],
  homeOf: (root: Buffer) => Buffer,
  isTemporary: (home: Buffer) => boolean,
  typeOf: TypeOf,
): Placement {
  const lives = new Map<Buffer, { first: number; last: number }>()
  dispatches.forEach(({ buffers }, at) => {
    for (const { allocation } of buffers) {
      const home = homeOf(allocation)
      const life = lives.get(home)
      if (life) life.last = at
      else if (isTemporary(home)) lives.set(home, { first: at, last: at })
    }
  })
  for (const { allocation } of held) {
    const home = homeOf(allocation)
    if (isTemporary(home)) lives.set(home, { first: 0, last: dispatches.length })
  }
  const slots = new Map<Buffer, number>()
  const sizes: number[] = []
  const taken = new Timeline(dispatches.length + 1, () => new Numbers())
  const bytes = (root: Buffer) => storedBytes(root, typeOf)
  for (const [root, { first, last }] of [...lives].sort(([a], [b]) => bytes(b) - bytes(a))) {
    // In descending order every piece so far is large enough; the last that is free is the smallest.
    const free = lastMissing(taken.notes(first, last), sizes.length)
    const piece = free ?? sizes.length
    if (free === undefined) sizes.push(bytes(root))
    taken.add(first, last, numbers => numbers.add(piece))
    slots.set(root, piece)
  }
  return { slots, sizes }
}

/** A set of whole numbers, as bits. */
class Numbers {
  private readonly words: number[] = []

  add(number: number): void {
    const { words } = this
    const word = number >> 5
    while (words.length <= word) words.push(0)
    words[word] |= 1 << (number & 31)
  }

  /** Of the 32 numbers from 32 · index, those in the set as bits. */
  word(index: number): number {
    return this.words[index] ?? 0
  }
}

/** The last number below a count that is in none of some sets. */
function lastMissing(sets: readonly Numbers[], count: number): number | undefined {
  for (let index = (count - 1) >> 5; index >= 0; index--) {
    const beyond = 32 * (index + 1) - count
    // What is beyond the count is not free.
    let used = beyond > 0 ? -1 << (32 - beyond) : 0
    for (const set of sets) used |= set.word(index)
    if (used !== -1) return 32 * index + 31 - Math.clz32(~used)
  }
  return undefined
}

/** Bytes of a buffer's memory; WebGPU counts in fours. */
export const storedBytes = (buffer: Buffer, typeOf: TypeOf): number =>
  Math.max(4, Math.ceil((buffer.size * bytesOf[typeOf(buffer)]) / 4) * 4)
