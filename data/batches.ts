/** Cuts the tokens of a text into batches of windows, for training and for evaluation. */
import { type NDArray, array } from '../engine/index.ts'
import { UserError } from '../common/errors.ts'
import { hash, shuffled } from './shuffle.ts'
import type { Tokens } from './tokens/tokenizer.ts'

/** Windows of text as int32 [batchSize, sequenceLength]. A target is the token that follows its input. */
export type Batch = {
  inputs: NDArray
  targets: NDArray
}

/** Which windows a batch has. They follow from these two numbers alone, so a run can be repeated and resumed exactly. */
export type SampleAt = {
  seed: number
  /** Tokens in all batches before this one. */
  tokensSeen: number
}

/** The most tokens in a batch: about as many as the largest language models have been trained with. */
const mostTokens = 2 ** 24

/**
 * The next batch of training windows. In each epoch the text is cut into adjacent windows, starting at a random offset, and
 * these are drawn in random order, so nothing is seen twice before everything has been seen once. (Windows at independent
 * random offsets would cover only 63% of the text in the first epoch.) If the sequence length changes during an epoch,
 * the text is cut and shuffled again. Throws a UserError if the batch is too large.
 */
export function sampleBatch(
  tokens: Tokens,
  batchSize: number,
  sequenceLength: number,
  { seed, tokensSeen }: SampleAt,
): Batch {
  if (batchSize * sequenceLength > mostTokens) {
    throw new UserError(
      `A batch of ${batchSize} sequences of ${sequenceLength} tokens is too large: it takes at most ${mostTokens} tokens.`,
    )
  }
  const windows = windowsPerEpoch(tokens, sequenceLength)
  const firstWindow = Math.floor(tokensSeen / sequenceLength)
  const starts = Array.from({ length: batchSize }, (_, row) => {
    const epoch = Math.floor((firstWindow + row) / windows)
    const key = hash(seed, epoch, sequenceLength)
    const offset = key % Math.min(sequenceLength, tokens.length - windows * sequenceLength)
    return offset + shuffled((firstWindow + row) % windows, windows, key) * sequenceLength
  })
  return readWindows(tokens, starts, sequenceLength)
}

/**
 * Batches of adjacent windows from the start of the text: the same for every network, so that their losses are
 * comparable. They have at most `tokenLimit` tokens in total, but at least one window.
 */
export function* validationBatches(
  tokens: Tokens,
  batchSize: number,
  sequenceLength: number,
  tokenLimit = Infinity,
): Generator<Batch> {
  checkWindow(tokens, sequenceLength)
  const windows = Math.max(1, Math.floor(Math.min(tokenLimit, tokens.length - 1) / sequenceLength))
  for (let first = 0; first < windows; first += batchSize) {
    const rows = Math.min(batchSize, windows - first) // the last batch may be smaller
    const starts = Array.from({ length: rows }, (_, row) => (first + row) * sequenceLength)
    yield readWindows(tokens, starts, sequenceLength)
  }
}

/** One window fewer than fit, to leave room for the random offset of the first. */
function windowsPerEpoch(tokens: Tokens, sequenceLength: number): number {
  checkWindow(tokens, sequenceLength)
  return Math.max(1, Math.floor(tokens.length / sequenceLength) - 1)
}

function checkWindow(tokens: Tokens, sequenceLength: number): void {
  if (tokens.length > sequenceLength) return
  throw new RangeError(
    `${tokens.length} tokens do not fill a window of ${sequenceLength} and its last target`,
  )
}

function readWindows(tokens: Tokens, starts: number[], sequenceLength: number): Batch {
  const inputs = new Int32Array(starts.length * sequenceLength)
  const targets = new Int32Array(starts.length * sequenceLength)
  for (const [row, start] of starts.entries()) {
    const window = tokens.slice(start, start + sequenceLength + 1)
    inputs.set(window.subarray(0, sequenceLength), row * sequenceLength)
    targets.set(window.subarray(1), row * sequenceLength)
  }
  const shape = [starts.length, sequenceLength]
  return { inputs: array(inputs, shape), targets: array(targets, shape) }
}
