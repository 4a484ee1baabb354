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

/** Draws a token by softmax(logits / temperature). It follows from seed and index alone, so a sample repeats. */
export function sampleToken(
  logits: Float32Array | Int32Array,
  { temperature, topK = 0, seed, index }: Draw,
): number {
  const largest = Math.max(...logits)
  if (temperature === 0) return logits.indexOf(largest)
  const least = topK > 0 && topK < logits.length ? logits.toSorted().at(-topK)! : -Infinity
  const odds = Array.from(logits, logit => (logit < least ? 0 : Math.exp((logit - largest) / temperature)))
  let rest = (hash(seed, index) / 2 ** 32) * odds.reduce((sum, odd) => sum + odd, 0)
  const token = odds.findIndex(odd => (rest -= odd) < 0)
  return token < 0 ? odds.length - 1 : token
}
