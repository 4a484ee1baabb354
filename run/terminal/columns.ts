/** The columns of the training table. A new column is an entry in trainingColumns. */
import type { Column } from './table.ts'

type Evaluation = { readonly loss: number; readonly accuracy: number }

/** What the values of a row are computed from. */
export type Moment = {
  readonly at: { readonly step: number; readonly tokens: number; readonly seconds: number }
  /** The results of the last training step. */
  readonly results: Evaluation & { readonly gradNorm: number }
  readonly validation?: Evaluation | undefined
  /** Since the previous row. */
  readonly since: { readonly tokens: number; readonly flops: number; readonly seconds: number }
  /** Tokens of training text. */
  readonly epochTokens: number
  /** Average bytes of validation text per token. */
  readonly bytesPerToken: number
  /** The peak of the machine in GFLOP/s. */
  readonly peakGflops: number
}

export type TrainingColumn = Column & {
  /** The value in a row; undefined leaves it blank. */
  readonly value: (moment: Moment) => number | undefined
}

/** The columns of hlb-gpt, and bits per byte and the share of the machine's peak. */
export const trainingColumns = {
  epoch: {
    heading: 'epoch',
    width: 5,
    format: decimals(2),
    spare: 5,
    value: ({ at, epochTokens }) => at.tokens / epochTokens,
  },
  step: {
    heading: 'step',
    width: 6,
    format: decimals(0),
    spare: 1,
    value: ({ at }) => at.step,
  },
  trainLoss: {
    heading: 'train_loss',
    width: 6,
    format: loss(3),
    spare: 2,
    value: ({ results }) => results.loss,
  },
  valLoss: {
    heading: 'val_loss',
    width: 6,
    format: loss(4),
    value: ({ validation }) => validation?.loss,
  },
  valPerplexity: {
    heading: 'val_perplexity',
    width: 8,
    format: perplexity,
    spare: 9,
    value: ({ validation }) => validation && Math.exp(validation.loss),
  },
  trainAccuracy: {
    heading: 'train_acc',
    width: 5,
    format: decimals(3),
    spare: 7,
    value: ({ results }) => results.accuracy,
  },
  valAccuracy: {
    heading: 'val_acc',
    width: 5,
    format: decimals(3),
    spare: 6,
    value: ({ validation }) => validation?.accuracy,
  },
  gradNorm: {
    heading: 'grad_norm',
    width: 6,
    format: gradNorm,
    spare: 8,
    value: ({ results }) => results.gradNorm,
  },
  bitsPerByte: {
    heading: 'bits/byte',
    width: 5,
    format: decimals(3),
    spare: 10,
    value: ({ validation, bytesPerToken }) => validation && validation.loss / Math.LN2 / bytesPerToken,
  },
  tokensPerSecond: {
    heading: 'tokens/s',
    width: 8,
    format: decimals(0),
    spare: 4,
    value: ({ since }) => since.tokens / since.seconds,
  },
  peakShare: {
    heading: '% peak',
    width: 5,
    format: percent,
    spare: 11,
    value: ({ since, peakGflops }) => since.flops / since.seconds / 1e9 / peakGflops,
  },
  seconds: {
    heading: 'seconds',
    width: 7,
    format: decimals(1),
    spare: 3,
    value: ({ at }) => at.seconds,
  },
} satisfies Record<string, TrainingColumn>

/** The values of all training columns at a moment. */
export const rowOf = (moment: Moment): { [Name in keyof typeof trainingColumns]: number | undefined } =>
  // The entries have the names of the columns.
  Object.fromEntries(
    Object.entries<TrainingColumn>(trainingColumns).map(([name, { value }]) => [name, value(moment)]),
  ) as { [Name in keyof typeof trainingColumns]: number | undefined }

function decimals(digits: number): (value: number) => string {
  return value => value.toFixed(digits)
}

/** The loss of a diverging network would have too many digits. */
function loss(digits: number): (value: number) => string {
  return value => (value < 1e5 ? value.toFixed(digits) : value.toExponential(1))
}

function percent(value: number): string {
  return (100 * value).toFixed(1)
}

/** The perplexity of an untrained or diverging network would have too many digits. */
function perplexity(value: number): string {
  return value < 1e5 ? value.toFixed(value < 100 ? 3 : 1) : value.toExponential(1)
}

function gradNorm(value: number): string {
  return value >= 1e-3 && value < 1e3 ? value.toFixed(3) : value.toExponential(1)
}
