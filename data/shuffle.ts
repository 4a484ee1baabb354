/**
 * Where `index` goes when 0 .. count-1 are shuffled by `key`: computed from these three alone, so that a
 * shuffle of any size needs no memory and can be taken up anywhere. A Feistel network mixes the two halves of
 * the index's bits, which permutes 0 .. 4^n-1; a result that is not below count is put in again until one is.
 */
export function shuffled(index: number, count: number, key: number): number {
  const halfBits = Math.ceil(Math.log2(Math.max(count, 4)) / 2)
  const halfSize = 2 ** halfBits // up to 2^26 each, so that the whole stays an exact number
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

/** 32 well-mixed bits of some whole numbers (each step is the finalizer of MurmurHash3). */
export function hash(...values: number[]): number {
  let bits = 0x9e3779b9
  for (const value of values) {
    bits = (bits ^ value) + 0x6d2b79f5
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
    bits ^= bits >>> 16
  }
  return bits >>> 0
}
