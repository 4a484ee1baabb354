/**
 * The scaling equations of hlb-gpt 0.4: everything that it derives from the number of parameters P, from the
 * step and from the loss. They are fits through networks of 46 million and 1.5 billion parameters.
 */

/** Where the equations were tried. Outside, the nearest end of the range stands for P. */
export const safeParameters = { least: 27.8e6, most: 3.03e9 } // modelScale 0.5 to 148

/** P as the equations may see it. Without this, 0.48 million parameters get a base rate of 0.035, and diverge. */
export const clampParameters = (parameters: number) =>
  Math.min(safeParameters.most, Math.max(safeParameters.least, parameters))

/** Width and depth of a network of this scale: 1 is 46 million parameters with GPT-2's tokens. */
export function networkSize(modelScale: number): { dim: number; blocks: number } {
  const doublings = Math.log2(1 + modelScale)
  return {
    dim: Math.max(64, 64 * roundHalfToEven((384 * doublings) / 64)),
    blocks: Math.max(1, roundHalfToEven(8 * doublings)),
  }
}

/** Tokens in a microbatch, for an accelerator that holds so many at scale 1. */
export const tokensPerBatch = (capacity: number, modelScale: number) =>
  Math.floor(capacity / (1.52174 + 0.482 * modelScale ** 0.87))

/** Python's round, which takes ties to the even neighbour. */
function roundHalfToEven(value: number): number {
  const below = Math.floor(value)
  const tie = value - below === 0.5
  return tie ? below + (below % 2) : Math.round(value)
}

/** What follows from P alone. */
export type Scaling = {
  /** The learning rate that all others are multiples of, before its own multiple of 2.62. */
  baseRate: number
  /** The weight decay is divided by this to the power of the loss. */
  weightDecayBase: number
  /** The gradient norm over √P is expected to be (steps · gradNormSteps) to this power. */
  gradNormPower: number
  gradNormSteps: number
}

export function scalingOf(parameters: number): Scaling {
  const log = Math.log(parameters)
  return {
    baseRate: 9e7 / log ** 8.8,
    weightDecayBase: 0.007 * (0.01 * log) ** -4,
    gradNormPower: -0.677 * log ** -0.2,
    gradNormSteps: log * parameters,
  }
}

/** Multiples of the learning rates at a step, the first of which is 0. */
export function rateMultiples(step: number, warmupSteps: number) {
  return {
    /** Power-law decay without end, after a warm-up from 2%. */
    body: step < warmupSteps ? 0.02 + (step / warmupSteps) * 0.98 : (step + 1 - warmupSteps) ** -0.08,
    output: (step + 1) ** -0.2,
    positionBias: 0.995 ** step,
  }
}

/** The weight decay of the step after one with this loss: nearly none at first, `limit` at a loss of 0. */
export const weightDecayAfter = (loss: number, { weightDecayBase }: Scaling, limit: number) =>
  (1 / weightDecayBase ** (loss + 1e-8)) * limit

/** The sequence length after a step. It doubles every so many of them. */
export const lengthAfter = (
  step: number,
  length: number,
  { growEvery, longest }: { growEvery: number; longest: number },
) => (step % growEvery === 0 && step !== 0 ? Math.min(2 * length, longest) : length)

export type MicrobatchSchedule = {
  /** Every so many steps the gradient norm is looked at. */
  sampleEvery: number
  /** How fast the number of microbatches follows it. */
  rate: number
  /** Microbatches are never more than this. The original has no such bound, and on small networks no end. */
  most: number
}

/**
 * How many microbatches a step should have, a fraction, after a step with this gradient norm. The norm is
 * expected to fall by a power law. Where it stays above that, it is noise, and larger batches average it out.
 */
export function microbatchesAfter(
  step: number,
  microbatches: number,
  {
    gradNorm,
    parameters,
    sampleEvery,
    rate,
    most,
  }: MicrobatchSchedule & { gradNorm: number; parameters: number },
): number {
  if (step % sampleEvery !== 0) return microbatches
  const { gradNormPower, gradNormSteps } = scalingOf(parameters)
  const expected = (gradNormSteps * (step + 1e-2)) ** gradNormPower
  const ratio = gradNorm / Math.sqrt(parameters) / expected
  const next = microbatches * (1 + sampleEvery * rate * (ratio - 1))
  return Math.min(most, Math.max(next, 0.1)) // from 0 there would be no way back
}

/** A whole number whose mean is the fraction, at least 1: Bernoulli dithering, by a uniform random number. */
export const dither = (microbatches: number, uniform: number) =>
  Math.max(1, Math.floor(microbatches) + Number(uniform < microbatches % 1))
