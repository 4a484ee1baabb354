import type { Corpus } from '../data/corpus.ts'
import type { Backend, Parameters } from '../engine/index.ts'
import type { RunOptions } from './options/flags.ts'
import { watchInterrupt } from './process/interrupt.ts'
import { logTo } from './record/log.ts'
import { type MetricsRow, whatDiverged } from './record/metrics.ts'
import { warn } from '../common/printable.ts'
import { columnsOf, createProgress } from '../common/progress.ts'
import { openRecord } from './record/record.ts'
import { trainingColumns } from './terminal/columns.ts'
import { type Column, createTable } from './terminal/table.ts'

/** How far a run is: from these numbers its batches and its schedules follow. */
export type Counters = {
  /** Steps that are done. */
  step: number
  tokens: number
  /** Of training; evaluations do not count. */
  seconds: number
  flops: number
  /** Share of the run that is done, 0 to 1. */
  done: number
}

/** What a script trains, and on what. */
export type Training<Own> = {
  readonly corpus: Corpus & { readonly fingerprint?: string }
  readonly backend: Pick<Backend, 'description' | 'peakGflops' | 'capacity'>
  readonly network: Parameters
  /** Momenta, sums and whatever else the optimizers remember. */
  readonly optimizer: Parameters
  /** What the script's schedules remember from step to step, beside the counters. */
  readonly at?: Own
  /** The table's columns, if they are not the usual ones. */
  readonly columns?: Readonly<Record<string, Column>>
}

/** What a row of the table is made from. */
export type Measured = {
  readonly loss: number
  readonly accuracy: number
  readonly gradNorm: number
  /** On the validation text. */
  readonly validation?: { readonly loss: number; readonly accuracy: number } | undefined
  /** Other columns, and what is noted without one. */
  readonly more?: Readonly<Record<string, number>>
}

/** A run under way: it counts and shows what is done, and keeps what a checkpoint takes. */
export type Run<Own> = {
  /** With the variables it makes a checkpoint: all else of a run follows from these. */
  readonly at: Counters & Own
  /** Whether there is something to train: not for a sample only, nor once the target is reached. */
  readonly trains: boolean
  /**
   * Whether Ctrl-C was pressed: to end the training, or from trained() on to end the sample. One that ended the
   * training leaves the sample to be written.
   */
  readonly interrupted: boolean
  /** Prints what the run is. */
  begin(about: Readonly<Record<string, string>>): Promise<void>
  /** Whether another step is to be done. Starts the clock. */
  goesOn(): boolean
  /**
   * Counts a step, and stops the clock until its row is done, or the next step begins. Of a step whose loss is yet to
   * come it waits for the one before: one is queued while another runs, so that a GPU is never idle.
   */
  stepped(step: {
    readonly tokens: number
    readonly flops: number
    readonly loss: number | Promise<number>
  }): Promise<void>
  /**
   * Whether the last step was the first or the last one, or the run has passed a multiple of this share in it: then
   * the step is done.
   */
  passed(share: number): Promise<boolean>
  /** Prints a row of the table and notes it; where it has a validation loss, writes a checkpoint if one is due. */
  row(measured: Measured): Promise<void>
  /** Closes the table, and writes the last checkpoint. */
  trained(): Promise<void>
  /** Notes the sample. */
  sampled(text: string): Promise<void>
}

/**
 * Starts a run of --steps, or else of --seconds: a new one, or (--resume) one that was there, which goes on from its
 * last checkpoint to the last bit.
 */
export async function startRun<Own extends Readonly<Record<string, number>> = Record<never, number>>(
  options: RunOptions & { readonly steps: number | undefined; readonly seconds?: number },
  { corpus, backend, network, optimizer, at: own, columns = trainingColumns }: Training<Own>,
): Promise<Run<Own>> {
  const { steps, seconds = Infinity } = options
  const at = Object.assign({ step: 0, tokens: 0, seconds: 0, flops: 0, done: 0 }, own)
  const { usual } = backend.capacity
  const saved = {
    ...options,
    // A sample takes the tokenizer, unlike the text.
    tokenizer: corpus.tokenizer.name,
    // In how many pieces a batch is computed shows in the last bits of its gradient.
    memory: options.memory ?? (usual < Infinity ? `${Math.floor(usual)}B` : undefined),
  }
  const interrupt = watchInterrupt()
  const record = await openRecord(saved, { network, optimizer, at }, corpus.fingerprint || undefined)
  const doneNow = () => Math.min(1, steps === undefined ? at.seconds / seconds : at.step / steps)
  at.done = doneNow() // perhaps it goes on with more steps than it had
  const progress = createProgress()
  const table = createTable(columns, progress.print, columnsOf(process.stdout))
  let clock = 0
  let doneBefore = at.done
  let lastRow = { ...at }
  let endedTraining = false
  let loss: number | Promise<number> | undefined
  let hasDiverged = false
  /** Adds what the clock shows to the seconds, and starts it anew. */
  const takeTime = () => {
    const now = performance.now()
    at.seconds += (now - clock) / 1000
    clock = now
    at.done = doneNow()
  }

  /** Prints a row and notes it. One whose loss is NaN or infinite ends the run, or with --on-nan go is spoken of. */
  async function note(row: MetricsRow): Promise<void> {
    lastRow = { ...at }
    table.row(row)
    logTo(options.log, row)
    await record.add(row)
    const what = whatDiverged(row)
    if (what === undefined) return
    progress.clear()
    if (options.onNan !== 'go') {
      table.close()
      throw record.divergence(row)
    }
    if (!hasDiverged) {
      warn(
        `The ${what} at step ${row.step}: it goes on with --on-nan go, and writes no checkpoint of such a step.`,
      )
    }
    hasDiverged = true
  }

  /** The loss of the last step; where it is NaN or infinite, that is a row of its own. */
  async function lossNow(): Promise<number | undefined> {
    const value = await loss
    if (value === undefined || Number.isFinite(value) || hasDiverged) return value
    takeTime()
    const { step, tokens, seconds, done } = at
    await note({ epoch: tokens / corpus.train.length, step, trainLoss: value, seconds, tokens, done })
    return value
  }

  return {
    at,
    get trains() {
      return record.trains
    },
    get interrupted() {
      return interrupt.requested && !endedTraining
    },

    async begin(about) {
      await record.begin({ text: textOf(corpus), ...about, backend: backend.description })
      for (const row of record.rows) table.row(row)
    },

    goesOn() {
      interrupt.begin()
      clock = performance.now()
      return record.trains && at.done < 1 && !interrupt.requested
    },

    async stepped(step) {
      const isLate = step.loss instanceof Promise
      // Whoever waits for it is told of a failure.
      void Promise.resolve(step.loss).catch(() => {})
      const before = isLate ? await lossNow() : undefined
      loss = step.loss
      at.step++
      at.tokens += step.tokens
      at.flops += step.flops
      doneBefore = at.done
      takeTime()
      const shown = isLate ? before : await lossNow()
      progress.update(at.done, `step ${at.step}${shown === undefined ? '' : `  loss ${shown.toFixed(3)}`}`)
    },

    async passed(share) {
      const isPassed = Math.floor(at.done / share) > Math.floor(doneBefore / share)
      if (!isPassed && at.step > 1 && at.done < 1) return false
      // With --on-nan go the row that follows tells of it.
      await (options.onNan === 'go' ? loss : lossNow())
      takeTime()
      return true
    },

    async row({ loss, accuracy, gradNorm, validation, more }) {
      const seconds = at.seconds - lastRow.seconds
      const row = {
        epoch: at.tokens / corpus.train.length,
        step: at.step,
        trainLoss: loss,
        valLoss: validation?.loss,
        valPerplexity: validation && Math.exp(validation.loss),
        trainAccuracy: accuracy,
        valAccuracy: validation?.accuracy,
        gradNorm,
        bitsPerByte: validation && validation.loss / Math.LN2 / corpus.bytesPerToken,
        ...more,
        tokensPerSecond: (at.tokens - lastRow.tokens) / seconds,
        peakShare: (at.flops - lastRow.flops) / seconds / 1e9 / backend.peakGflops,
        seconds: at.seconds,
        tokens: at.tokens,
        done: at.done,
      }
      await note(row)
    },

    async trained() {
      progress.clear()
      const last = await lossNow() // a run that was interrupted has not waited for it
      table.close()
      await record.trained(last ?? 0)
      await interrupt.settled()
      endedTraining = interrupt.requested
    },

    sampled: record.sampled,
  }
}

const textOf = ({ name, train, validation }: Corpus) =>
  `${name}, ${train.length} tokens to train on and ${validation.length} to validate with`
