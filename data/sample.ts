import { hash } from './shuffle.ts'

/**
 * Draws a token by softmax(logits / temperature); at temperature 0 the likeliest. The draw follows from
 * seed and index alone, so a sample repeats.
 */
export function sampleToken(
  logits: Float32Array | Int32Array,
  { temperature, seed, index }: { temperature: number; seed: number; index: number },
): number {
  const largest = Math.max(...logits)
  if (temperature === 0) return logits.indexOf(largest)
  const odds = Array.from(logits, logit => Math.exp((logit - largest) / temperature))
  let rest = (hash(seed, index) / 2 ** 32) * odds.reduce((sum, odd) => sum + odd, 0)
  const token = odds.findIndex(odd => (rest -= odd) < 0)
  return token < 0 ? odds.length - 1 : token
}
