/** A run from its first step to its last: counts what is done, keeps the clock, prints the table, writes checkpoints. */
import type { Corpus } from '../data/corpus.ts'
import {
  type Backend,
  type Inputs,
  type NDArray,
  type Parameters,
  type Tensor,
  items,
} from '../engine/index.ts'
import type { CompiledWithin } from './budget.ts'
import type { RunOptions } from './options/flags.ts'
import { watchInterrupt } from './process/interrupt.ts'
import { logTo } from './record/log.ts'
import { type MetricsRow, whatDiverged } from './record/metrics.ts'
import { warn } from '../common/printable.ts'
import { columnsOf, createProgress } from '../common/progress.ts'
import { openRecord } from './record/record.ts'
import { rowOf, trainingColumns } from './terminal/columns.ts'
import { type Column, createTable } from './terminal/table.ts'

/** How far a run is. Its batches and its schedules follow from these numbers. */
export type Counters = {
  /** Finished steps. */
  step: number
  tokens: number
  /** Seconds of training, without evaluations. */
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
  /** Momenta, sums and whatever else the optimizers keep. */
  readonly optimizer: Parameters
  /** Numbers that the script's schedules keep from step to step, besides the counters. */
  readonly at?: Own
  /** Lines of the header, by their titles. Called once, and only if there is something to train. */
  readonly about: () => Promise<Readonly<Record<string, string>>>
  /** The table's columns, if they are not the usual ones. */
  readonly columns?: Readonly<Record<string, Column>>
}

/** Results of a training step. */
export type StepResults = { readonly loss: number; readonly accuracy: number; readonly gradNorm: number }

/** A training step that has been computed, or is being computed. */
export type Step = {
  readonly tokens: number
  readonly flops: number
  readonly results: StepResults | Promise<StepResults>
}

/** What a row of the table shows besides the last step's results. */
export type RowRequest = {
  /** Returns the loss and the accuracy on the validation text. The clock stands still meanwhile. */
  readonly validate?: (() => Promise<{ readonly loss: number; readonly accuracy: number }>) | undefined
  /** Values of other columns, and numbers to record without one. */
  readonly more?: Readonly<Record<string, number>>
}

/** A run under way. */
export type Run<Own = unknown> = {
  /**
   * Whether Ctrl-C asks the training to end or, after the training, the sample. A Ctrl-C that ended the training does
   * not end the sample too.
   */
  readonly interrupted: boolean
  /**
   * Prints the header and yields the counters before each step that is left; the loop's body takes the step. Ends when
   * the run is done or interrupted, and calls trained() then. A loop that is left by break has to call it itself.
   */
  steps(): AsyncGenerator<Counters & Own, void, void>
  /**
   * Takes a step with a compiled function, and counts its FLOP and the tokens of `inputs.inputs`. Does not wait for the
   * results but for those of the step before: one step is queued while another runs, so a GPU is never idle.
   */
  train(
    step: CompiledWithin<Record<keyof StepResults, Tensor>>,
    inputs: Inputs & { readonly inputs: NDArray },
  ): Promise<void>
  /** Counts a step that the script has taken by itself. If its results are pending, waits for those of the step before. */
  stepped(step: Step): Promise<void>
  /** Whether a row is due: after the first step, after the last, and each time this share of the run is done. */
  isDue(share: number): boolean
  /** Waits for the last step, evaluates, prints and records a row, and writes a checkpoint if one is due. */
  row(request?: RowRequest): Promise<void>
  /** Closes the table and writes the last checkpoint. */
  trained(): Promise<void>
  /** Records the sample. */
  sampled(text: string): Promise<void>
}

/**
 * Starts a run of --steps, or else of --seconds. It is a new one, or with --resume an earlier one, which continues from
 * its last checkpoint exactly as if it had not been interrupted.
 */
export async function startRun<Own extends Readonly<Record<string, number>> = Record<never, number>>(
  options: RunOptions & { readonly steps: number | undefined; readonly seconds?: number },
  { corpus, backend, network, optimizer, at: own, about, columns = trainingColumns }: Training<Own>,
): Promise<Run<Own>> {
  const { steps, seconds = Infinity } = options
  const at = Object.assign({ step: 0, tokens: 0, seconds: 0, flops: 0, done: 0 }, own)
  const { usual } = backend.capacity
  const saved = {
    ...options,
    // A sample needs the tokenizer, but not the text.
    tokenizer: corpus.tokenizer.name,
    // The last bits of a gradient depend on the number of microbatches.
    memory: options.memory ?? (usual < Infinity ? `${Math.floor(usual)}B` : undefined),
  }
  const interrupt = watchInterrupt()
  const record = await openRecord(saved, { network, optimizer, at }, corpus.fingerprint || undefined)
  const doneNow = () => Math.min(1, steps === undefined ? at.seconds / seconds : at.step / steps)
  at.done = doneNow() // a resumed run may have more steps than it had
  const progress = createProgress()
  const table = createTable(columns, progress.print, columnsOf(process.stdout))
  let clock = 0
  let doneBefore = at.done
  let lastRow = { ...at }
  let endedTraining = false
  let results: Step['results'] | undefined
  let hasDiverged = false
  let ending: Promise<void> | undefined
  /** Adds the time since the last call to the seconds. */
  const takeTime = () => {
    const now = performance.now()
    at.seconds += (now - clock) / 1000
    clock = now
    at.done = doneNow()
  }

  /** Prints and records a row. A loss that is NaN or infinite ends the run, or with --on-nan go is warned of. */
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
        `The ${what} at step ${row.step}: training continues because of --on-nan go, but steps like this get no checkpoint.`,
      )
    }
    hasDiverged = true
  }

  /** Waits for the last step's results. If their loss is NaN or infinite, they get a row of their own. */
  async function finishStep(): Promise<StepResults | undefined> {
    const finished = await results
    if (finished === undefined || Number.isFinite(finished.loss) || hasDiverged) return finished
    takeTime()
    const { step, tokens, seconds, done } = at
    const epoch = tokens / corpus.train.length
    await note({ epoch, step, trainLoss: finished.loss, seconds, tokens, done })
    return finished
  }

  async function stepped({ tokens, flops, results: latest }: Step): Promise<void> {
    const isPending = latest instanceof Promise
    // Whoever awaits the results handles the error.
    void Promise.resolve(latest).catch(() => {})
    const before = isPending ? await finishStep() : undefined
    results = latest
    at.step++
    at.tokens += tokens
    at.flops += flops
    doneBefore = at.done
    takeTime()
    const shown = isPending ? before : await finishStep()
    progress.update(at.done, `step ${at.step}${shown ? `  loss ${shown.loss.toFixed(3)}` : ''}`)
  }

  async function endTraining(): Promise<void> {
    progress.clear()
    const last = await finishStep() // an interrupted run has not waited for it
    table.close()
    await record.trained(last?.loss ?? 0)
    await interrupt.settled()
    endedTraining = interrupt.requested
  }
  const trained = () => (ending ??= endTraining())

  return {
    get interrupted() {
      return interrupt.requested && !endedTraining
    },

    async *steps() {
      if (record.trains) {
        await record.begin({ text: textOf(corpus), ...(await about()), backend: backend.description })
        for (const row of record.rows) table.row(row)
      }
      interrupt.begin()
      while (record.trains && at.done < 1 && !interrupt.requested) {
        clock = performance.now()
        yield at
      }
      await trained()
    },

    async train(step, inputs) {
      const { flops } = await step.prepare(inputs)
      await stepped({ tokens: inputs.inputs.size, flops, results: step(inputs).then(items) })
    },

    stepped,

    isDue(share) {
      return at.step === 1 || at.done === 1 || Math.floor(at.done / share) > Math.floor(doneBefore / share)
    },

    async row({ validate, more } = {}) {
      // With --on-nan go this row shows a loss of NaN too: no other one is needed.
      const last = await (options.onNan === 'go' ? results : finishStep())
      if (!last) throw new Error('row() is for a run that has taken a step')
      takeTime()
      const validation = await validate?.()
      const since = {
        tokens: at.tokens - lastRow.tokens,
        flops: at.flops - lastRow.flops,
        seconds: at.seconds - lastRow.seconds,
      }
      const { length: epochTokens } = corpus.train
      const { bytesPerToken } = corpus
      const { peakGflops } = backend
      const columnValues = rowOf({
        at,
        results: last,
        validation,
        since,
        epochTokens,
        bytesPerToken,
        peakGflops,
      })
      await note({
        ...columnValues,
        ...more,
        // Every row has these.
        epoch: at.tokens / epochTokens,
        step: at.step,
        trainLoss: last.loss,
        seconds: at.seconds,
        tokens: at.tokens,
        done: at.done,
      })
    },

    trained,
    sampled: record.sampled,
  }
}

const textOf = ({ name, train, validation }: Corpus) =>
  `${name}, ${train.length} tokens to train on and ${validation.length} to validate with`
