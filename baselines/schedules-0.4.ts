/**
 * The scaling equations of hlb-gpt 0.4: everything that it derives from the number of parameters P, from the
 * step and from the loss. They are fits through networks of 46 million and 1.5 billion parameters.
 */

/** The range of P in which the equations were tried. Outside, its nearest end stands for P. */
export const safeParameters = { least: 27.8e6, most: 3.03e9 } // modelScale 0.5 to 148

/** P within that range. Without this, 0.48 million parameters get a base rate of 0.035 and diverge. */
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

/** Tokens in a microbatch, for an accelerator whose memory holds `capacity` of them at scale 1. */
export const tokensPerBatch = (capacity: number, modelScale: number) =>
  Math.floor(capacity / (1.52174 + 0.482 * modelScale ** 0.87))

/** Python's round(), which rounds ties to the even neighbour. */
function roundHalfToEven(value: number): number {
  const below = Math.floor(value)
  const tie = value - below === 0.5
  return tie ? below + (below % 2) : Math.round(value)
}

/** What follows from P alone. */
export type Scaling = {
  /** All learning rates are multiples of this one. */
  baseRate: number
  /** The weight decay is divided by this number raised to the power of the loss. */
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

/** Multiples of the learning rates at a step. Steps count from 0. */
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

/** The sequence length after a step. It doubles every `growEvery` steps. */
export const lengthAfter = (
  step: number,
  length: number,
  { growEvery, longest }: { growEvery: number; longest: number },
) => (step % growEvery === 0 && step !== 0 ? Math.min(2 * length, longest) : length)

export type MicrobatchSchedule = {
  /** Steps between two looks at the gradient norm. */
  sampleEvery: number
  /** How fast the number of microbatches follows it. */
  rate: number
  /** The largest number of microbatches. The original has no bound, and on small networks they grow without end. */
  most: number
}

/**
 * How many microbatches, as a fraction, the step after one with this gradient norm should have. The norm is expected
 * to fall by a power law. What it has above that is noise, which larger batches average out.
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
  return Math.min(most, Math.max(next, 0.1)) // it could not grow again from 0
}

/** Bernoulli dithering: a whole number, at least 1, whose mean is the fraction. `uniform` is random, 0 to 1. */
export const dither = (microbatches: number, uniform: number) =>
  Math.max(1, Math.floor(microbatches) + Number(uniform < microbatches % 1))
