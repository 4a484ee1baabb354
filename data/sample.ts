/** Draws the next token of a sample from the logits. */
import { hash } from './shuffle.ts'

/** How a token is drawn. */
export type Draw = {
  /** 0 always takes the most likely token, 1 samples from the network's probabilities. */
  temperature: number
  /** Sample only from this many most likely tokens; 0 means all of them. */
  topK?: number
  seed: number
  index: number
}

/**
 * Samples a token from softmax(logits / temperature). The random number follows from seed and index alone, so a sample can
 * be repeated. The loops are plain because a vocabulary is large and each token should take only a few milliseconds.
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

/** The n-th largest number, with the largest as the first. */
function nthLargest(numbers: Float32Array | Int32Array, n: number): number {
  // A heap of the n largest numbers so far: each is at most those at 2i + 1 and 2i + 2, so the first is the least.
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
