import type { Buffer } from '../program.ts'
import { type Dispatch, type TypeOf, bytesOf } from './kernel.ts'

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
    for (const { root } of buffers) {
      const home = homeOf(root)
      const life = lives.get(home)
      if (life) life.last = at
      else if (isTemporary(home)) lives.set(home, { first: at, last: at })
    }
  })
  for (const { root } of held) {
    const home = homeOf(root)
    if (isTemporary(home)) lives.set(home, { first: 0, last: dispatches.length })
  }
  const pieces: { bytes: number; lives: { first: number; last: number }[] }[] = []
  const places = new Map<Buffer, (typeof pieces)[number]>()
  const bytes = (root: Buffer) => storedBytes(root, typeOf)
  for (const [root, life] of [...lives].sort(([a], [b]) => bytes(b) - bytes(a))) {
    // In descending order every piece so far is large enough; the last that is free is the smallest.
    const free = pieces.findLast(piece =>
      piece.lives.every(({ first, last }) => last < life.first || first > life.last),
    )
    const piece = free ?? { bytes: bytes(root), lives: [] }
    if (!free) pieces.push(piece)
    piece.lives.push(life)
    places.set(root, piece)
  }
  return {
    slots: new Map([...places].map(([root, piece]) => [root, pieces.indexOf(piece)])),
    sizes: pieces.map(piece => piece.bytes),
  }
}

/** Bytes of a buffer's memory; WebGPU counts in fours. */
export const storedBytes = (buffer: Buffer, typeOf: TypeOf): number =>
  Math.max(4, Math.ceil((buffer.size * bytesOf[typeOf(buffer)]) / 4) * 4)
