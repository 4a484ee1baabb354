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

/**
 * 32 well-mixed bits of some whole numbers from 0 to 2^53 - 1 (each step is the finalizer of MurmurHash3). Of one that
 * has more than 32 bits the others are mixed in last.
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
