/** How a kernel moves along a row: in pairs of vectors, and in single vectors and elements at the end. */
import { constant } from '../elementwise/operations.ts'

export const elementBytes = 4
export const lanes = 4
/** Neighbouring vectors that are computed together, so that the revectorizer can join them. */
export const pairSize = 2
export const pairBytes = pairSize * lanes * elementBytes

/** What one iteration of a loop over a row covers: a pair of vectors, a vector, or an element. */
export type Loop = 'pairs' | 'vector' | 'lane'

/** Loads the vector (or, in the 'lane' loop, the element) with index `half` of a pair. */
export function loadAt(loop: Loop, address: string, half: number, offset = 0): string {
  return `(v128.load${loop === 'lane' ? '32_zero' : ''} offset=${offset + half * lanes * elementBytes} ${address})`
}

/** Stores the vector (or, in the 'lane' loop, the element) with index `half` of a pair. */
export function storeAt(loop: Loop, address: string, half: number, value: string, offset = 0): string {
  const at = `offset=${offset + half * lanes * elementBytes}`
  return loop === 'lane'
    ? `(v128.store32_lane ${at} 0 ${address} ${value})`
    : `(v128.store ${at} ${address} ${value})`
}

/** In the 'lane' loop, replaces the three unused lanes by what does not change a reduction. */
export function masked(value: string, loop: Loop, isMax: boolean): string {
  if (loop !== 'lane') return value
  const mask = '(v128.const i32x4 -1 0 0 0)'
  return isMax
    ? `(v128.bitselect ${value} ${constant(-Infinity, 'float32')} ${mask})`
    : `(v128.and ${value} ${mask})`
}
