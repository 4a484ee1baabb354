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

/** The n-th of some numbers, the largest being the first. */
function nthLargest(numbers: Float32Array | Int32Array, n: number): number {
  // The n largest so far, as a heap: none is more than the two at 2i + 1 and 2i + 2, and the least is the first.
  const heap = numbers.slice(0, n).sort()
  for (let i = n; i < numbers.length; i++) {
    const number = numbers[i]
    if (!(number > heap[0])) continue
    let place = 0
    for (let child = 1; child < n; child = 2 * place + 1) {
      if (child + 1 < n && heap[child + 1] < heap[child]) child++
      if (heap[child] >= number) break
      heap[place] = heap[child]
      place = child
    }
    heap[place] = number
  }
  return heap[0]
}
