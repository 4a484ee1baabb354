/** The learning rate of hlb-gpt's first release: PyTorch's OneCycleLR with cosines and without momentum. */
export type OneCycle = {
  /** The highest rate. */
  rate: number
  steps: number
  /** Share of the steps in which the rate rises. */
  warmup: number
  /** The first rate is the highest divided by this. */
  divFactor: number
  /** The last rate is the first divided by this. Below 1, the last is the higher of the two. */
  finalDivFactor: number
}

/** The rate of a step. Steps count from 0. */
export function oneCycle(step: number, { rate, steps, warmup, divFactor, finalDivFactor }: OneCycle): number {
  const first = rate / divFactor
  const peak = warmup * steps - 1
  if (step < peak) return cosine(first, rate, step / peak)
  return cosine(rate, first / finalDivFactor, (step - peak) / Math.max(steps - 1 - peak, Number.EPSILON))
}

const cosine = (from: number, to: number, done: number) =>
  to + ((from - to) / 2) * (1 + Math.cos(Math.PI * done))
