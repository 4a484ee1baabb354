// Assigns the temporaries of a program to pieces of a GPU's memory.
import type { Buffer } from '../../compiler/program.ts'
import { Timeline } from '../../compiler/timeline.ts'
import { type Dispatch, type TypeOf, storedBytes } from '../kernels/kernel.ts'

/** The pieces of memory that a program's temporaries lie in. */
export interface BufferAssignment {
  /** The number of the piece for each temporary, or for the packed buffer that it is in. */
  readonly slots: ReadonlyMap<Buffer, number>
  /** Bytes of each piece, the largest first. */
  readonly sizes: readonly number[]
}

/**
 * Assigns temporaries to pieces of memory. Temporaries whose lifetimes do not overlap may share a piece. The largest are
 * placed first, each in the smallest free piece that holds it. A piece is a GPUBuffer of its own, not a range of one,
 * because WebGPU tracks dependencies by GPUBuffer: kernels that share none may run at the same time.
 * held: buffers that live throughout; homeOf: the packed buffer that a buffer is in, or the buffer itself.
 */
export function assignBuffers(
  dispatches: readonly Dispatch[],
  held: readonly Buffer[],
  homeOf: (allocation: Buffer) => Buffer,
  isTemporary: (home: Buffer) => boolean,
  typeOf: TypeOf,
): BufferAssignment {
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
  const bytes = (home: Buffer) => storedBytes(home, typeOf)
  for (const [home, { first, last }] of [...lives].sort(([a], [b]) => bytes(b) - bytes(a))) {
    // Sizes descend, so every piece so far is large enough, and the last free one is the smallest.
    const free = lastMissing(taken.notes(first, last), sizes.length)
    const piece = free ?? sizes.length
    if (free === undefined) sizes.push(bytes(home))
    taken.add(first, last, numbers => numbers.add(piece))
    slots.set(home, piece)
  }
  return { slots, sizes }
}

/** A set of small integers, as bits. */
class Numbers {
  private readonly words: number[] = []

  add(number: number): void {
    const { words } = this
    const word = number >> 5
    while (words.length <= word) words.push(0)
    words[word] |= 1 << (number & 31)
  }

  /** The bits of the 32 numbers from 32 · index on. */
  word(index: number): number {
    return this.words[index] ?? 0
  }
}

/** The largest number below a count that none of the sets has. */
function lastMissing(sets: readonly Numbers[], count: number): number | undefined {
  for (let index = (count - 1) >> 5; index >= 0; index--) {
    const beyond = 32 * (index + 1) - count
    // Numbers from the count on are not free.
    let used = beyond > 0 ? -1 << (32 - beyond) : 0
    for (const set of sets) used |= set.word(index)
    if (used !== -1) return 32 * index + 31 - Math.clz32(~used)
  }
  return undefined
}
