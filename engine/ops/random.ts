/** Random numbers that depend only on a key, and keys made from a seed and a name. */
import { type Shape, sizeOf } from '../graph/shape.ts'
import { type Operand, type Tensor, arange, binary, unary } from '../graph/tensor.ts'

/**
 * Uniform random numbers in [0, 1). Each is a pure function of the key, an int32 number or scalar tensor, and its index
 * (counter-based, Salmon et al. 2011), so it does not depend on threads or on what ran before.
 */
export function randomUniform(shape: Shape, key: Operand): Tensor {
  const counter = arange(sizeOf(shape)).reshape(...shape)
  return unary('bitsToUniform', binary('randomBits', counter, key))
}

/** Normal random numbers with mean 0, by the Box-Muller transform (Box & Muller 1958). */
export function randomNormal(shape: Shape, key: Operand, standardDeviation = 1): Tensor {
  const counter = arange(sizeOf(shape)).reshape(...shape)
  const [first, second] = [0, 1].map(half =>
    unary('bitsToUniform', binary('randomBits', counter.mul(2).add(half), key)),
  )
  const radius = first.neg().add(1).log().mul(-2).sqrt()
  return radius.mul(second.mul(2 * Math.PI).cos()).mul(standardDeviation)
}

/**
 * The int32 key for a name under a seed: MurmurHash3 (Appleby 2008) of the name's UTF-8 bytes, followed by the two halves
 * of the seed. The seed comes last so that two seeds that collide for one name do not collide for all of them.
 * Throws RangeError if the seed is not a whole number from 0 to 2^53 - 1.
 */
export function randomKey(seed: number, name: string): number {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new RangeError(`randomKey: a seed is a whole number from 0 to 2^53 - 1, not ${seed}`)
  const bytes = new TextEncoder().encode(name)
  const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4 + 8)
  padded.set(bytes)
  const words = new DataView(padded.buffer)
  words.setUint32(padded.length - 8, seed % 2 ** 32, true)
  words.setUint32(padded.length - 4, Math.floor(seed / 2 ** 32), true)
  let key = 0
  for (let at = 0; at < padded.length; at += 4) {
    const word = Math.imul(words.getInt32(at, true), 0xcc9e2d51)
    key ^= Math.imul((word << 15) | (word >>> 17), 0x1b873593)
    key = Math.imul((key << 13) | (key >>> 19), 5) + 0xe6546b64
  }
  key ^= bytes.length
  key = Math.imul(key ^ (key >>> 16), 0x85ebca6b)
  key = Math.imul(key ^ (key >>> 13), 0xc2b2ae35)
  return key ^ (key >>> 16)
}
