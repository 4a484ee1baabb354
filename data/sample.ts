import { hash } from './shuffle.ts'

/** How a token is drawn. */
export type Draw = {
  /** 0 takes the likeliest token, 1 goes by the probabilities. */
  temperature: number
  /** Only so many of the likeliest tokens are drawn from; 0 is all of them. */
  topK?: number
  seed: number
  index: number
}

/**
 * Draws a token by softmax(logits / temperature). It follows from seed and index alone, so a sample repeats.
 * A vocabulary is large, and a token takes a few milliseconds: hence the plain loops.
 */
export function sampleToken(
  logits: Float32Array | Int32Array,
  { temperature, topK = 0, seed, index }: Draw,
): number {
  let likeliest = 0
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[likeliest]) likeliest = i
  if (temperature === 0) return likeliest
  const largest = logits[likeliest]
  const least = topK > 0 && topK < logits.length ? nthLargest(logits, topK) : -Infinity
  const odds = new Float64Array(logits.length)
  let sum = 0
  for (let i = 0; i < logits.length; i++) {
    if (logits[i] < least) continue
    odds[i] = Math.exp((logits[i] - largest) / temperature)
    sum += odds[i]
  }
  let rest = (hash(seed, index) / 2 ** 32) * sum
  let token = 0
  while (token < odds.length - 1 && (rest -= odds[token]) >= 0) token++
  return token
}

/** The n-th of some numbers, the largest being the first, by quickselect (Hoare 1961). */
function nthLargest(numbers: Float32Array | Int32Array, n: number): number {
  const parts = numbers.slice()
  let [start, end] = [0, parts.length - 1]
  while (start < end) {
    const pivot = parts[(start + end) >> 1]
    let [i, j] = [start, end]
    while (i <= j) {
      while (parts[i] > pivot) i++
      while (parts[j] < pivot) j--
      if (i > j) break
      const larger = parts[j]
      parts[j--] = parts[i]
      parts[i++] = larger
    }
    if (n - 1 <= j) end = j
    else if (n - 1 >= i) start = i
    else break
  }
  return parts[n - 1]
}
