/** The learning rate of hlb-gpt's first release: PyTorch's OneCycleLR with cosines and without momentum. */
export type OneCycle = {
  /** The highest rate. */
  rate: number
  steps: number
  /** Share of the steps in which the rate rises. */
  warmup: number
  /** The first rate is the highest over this. */
  divFactor: number
  /** The last rate is the first over this: below 1, it is the higher of the two. */
  finalDivFactor: number
}

/** The rate of a step, the first of which is 0. */
export function oneCycle(step: number, { rate, steps, warmup, divFactor, finalDivFactor }: OneCycle): number {
  const first = rate / divFactor
  const peak = warmup * steps - 1
  if (step < peak) return cosine(first, rate, step / peak)
  return cosine(rate, first / finalDivFactor, (step - peak) / Math.max(steps - 1 - peak, Number.EPSILON))
}

const cosine = (from: number, to: number, done: number) =>
  to + ((from - to) / 2) * (1 + Math.cos(Math.PI * done))
