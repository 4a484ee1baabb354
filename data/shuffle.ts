/** A hash of numbers, and a shuffle that needs no memory. */

/**
 * The position of `index` after 0 .. count-1 are shuffled with `key`. It is computed from these three numbers alone, so
 * shuffles of any size need no memory and can resume anywhere. A Feistel network on the two halves of the index's bits
 * permutes 0 .. 4^n-1; it is applied again to a result that is not below count ("cycle walking").
 */
export function shuffled(index: number, count: number, key: number): number {
  const halfBits = Math.ceil(Math.log2(Math.max(count, 4)) / 2)
  const halfSize = 2 ** halfBits // at most 2^26, so that a float64 holds the whole number exactly
  let place = index
  do {
    let high = Math.floor(place / halfSize)
    let low = place % halfSize
    for (let round = 0; round < 6; round++) {
      ;[high, low] = [low, (high ^ hash(low, key, round)) & (halfSize - 1)]
    }
    place = high * halfSize + low
  } while (place >= count)
  return place
}

/**
 * A 32-bit hash of whole numbers from 0 to 2^53 - 1. Each step is the finalizer of MurmurHash3. The bits above the lowest
 * 32 of each number are mixed in last.
 */
export function hash(...values: number[]): number {
  let bits = 0x9e3779b9
  for (const value of values) bits = mixed(bits, value)
  for (const value of values) if (value >= 2 ** 32) bits = mixed(bits, Math.floor(value / 2 ** 32))
  return bits >>> 0
}

function mixed(state: number, value: number): number {
  let bits = (state ^ value) + 0x6d2b79f5
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return bits ^ (bits >>> 16)
}
