/** Records a run in its folder, and restores a run to resume. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DivergedError, type State, checkpointsIn } from '../checkpoint/checkpoint.ts'
import { type Config, keptArguments, showConfig } from './config.ts'
import { environment } from './environment.ts'
import { UserError, reasonOf } from '../../common/errors.ts'
import { adviseOnGpuLoss, isMachineError } from '../process/handle-errors.ts'
import { type RunOptions, runFlags } from '../options/flags.ts'
import { findRun } from '../folders/find-run.ts'
import { filesOf, tidyRun } from '../folders/run-files.ts'
import { headerText } from '../terminal/header.ts'
import { readHistory } from './history.ts'
import { lockFolder } from '../folders/lock.ts'
import {
  type MetricsRow,
  appendRow,
  divergenceIn,
  evaluationsIn,
  firstToReach,
  whatDiverged,
  writeRows,
} from './metrics.ts'
import { makeFolder, refuseTaken } from '../folders/new-folder.ts'
import { argumentsOf } from '../options/options.ts'
import { printable, warn } from '../../common/printable.ts'
import { reportHtml } from './report.ts'
import { loadWeights } from '../checkpoint/weights.ts'
import { writeWhole } from '../../common/whole-file.ts'

/** The record of a run. */
export type RunRecord = {
  /** Whether there is something to train: not with --no-train, after the target was reached, or after divergence. */
  readonly trains: boolean
  /** The rows so far, including the earlier ones of a resumed run. */
  readonly rows: readonly MetricsRow[]
  /** Prints and records the header. A new run gets its folder here. */
  begin(about: Readonly<Record<string, string>>): Promise<void>
  /** Records a row of the table. After an evaluation, writes a checkpoint if one is due. */
  add(row: MetricsRow): Promise<void>
  /** The error that ends a run after a row whose loss is NaN or infinite. It says what to do. */
  divergence(row: MetricsRow): UserError
  /** Ends the training, even early: writes the last checkpoint, unless the last loss was NaN or infinite. */
  trained(loss: number): Promise<void>
  /** Records the sample. */
  sampled(text: string): Promise<void>
}

/**
 * Opens the folder of a run to resume and restores `state` from its last checkpoint, or prepares a new run. `state` is the
 * whole state of a run, so the resumed run computes the same bits as an uninterrupted one. `text` identifies the text that
 * the run trains on.
 */
export async function openRecord(
  options: RunOptions,
  state: State,
  text: string | undefined,
): Promise<RunRecord> {
  const { runs, resume, init, target, train } = options
  if (resume !== undefined && options.run !== undefined && options.run !== resume) {
    throw new UserError(`--resume ${resume} goes on under that name: leave --run ${options.run} out.`)
  }
  const before = resume === undefined ? undefined : await findRun(runs, resume)
  if (!before) await refuseTaken(runs, options.run)
  if (!before && init !== undefined) await loadWeights(init, state.network)
  const place = environment()
  const rows: MetricsRow[] = []
  let config: Config = {
    name: before?.name ?? options.run ?? '',
    started: before?.started ?? new Date().toISOString(),
    arguments: keptArguments(argumentsOf(options)),
    environment: place,
    ...(text !== undefined && { text }),
    about: {},
  }
  let sample = ''
  let folder = join(runs, config.name)
  let files = filesOf(folder)
  let checkpoints = checkpointsIn(files.checkpoints, warn)

  let lock = before && train ? await lockFolder(folder) : undefined
  // This process has the lock, so no other process is writing these files.
  if (before && train) await tidyRun(folder, 0)
  // A sample needs only the network.
  const needed = train ? state : { ...state, optimizer: {} }
  const from = before && (await checkpoints.load(needed))
  if (before && from?.config && from.config.started !== before.started) {
    throw new UserError(
      `${files.config} is of another run than ${files.checkpoints}: it was started at ${before.started}, and that ` +
        `one at ${from.config.started}. Remove the one that does not belong there.`,
    )
  }
  if (before && train) warnOfChanges(folder, before, config)
  if (!from && !train)
    throw new UserError(`${folder} has no checkpoint yet: there is nothing to sample from.`)

  const history = before && train ? await readHistory(files.metrics, from, warn) : []
  const diverged = divergenceIn(history)
  const again = before && diverged && !mayDiffer(options, before, config)
  if (again) {
    const how = `would again: ${remedy()}`
    const sentence = `${folder} diverged at step ${diverged.step} (its ${whatDiverged(diverged)}), and ${how}`
    if (!from) throw new UserError(sentence)
    warn(sentence)
  }
  if (before && !from && init !== undefined) await loadWeights(init, state.network)
  if (before && train) {
    rows.push(...(again ? history : history.filter(({ step }) => step <= state.at.step)))
    // The rows after the checkpoint are computed again.
    if (!again) await write(() => writeRows(files.metrics, rows))
  }

  /** Writes to the run's folder, and turns errors of the disk, such as a full one, into UserErrors. */
  async function write(action: () => Promise<void>): Promise<void> {
    try {
      await lock?.confirm()
      await action()
    } catch (error) {
      if (error instanceof UserError || isMachineError(error)) throw error
      const { last } = checkpoints
      const left = last === undefined ? 'it has no checkpoint' : `its checkpoint of step ${last} is there`
      throw new UserError(`${folder} cannot be written to (${reasonOf(error)}); ${left}.`)
    }
  }
  function command(more: string): string {
    const where = runs === runFlags.runs.default ? '' : ` --runs ${runs}`
    return `npm start -- --resume ${config.name}${where}${more}`
  }
  /** What to do about a run that has diverged, in words. */
  function remedy(): string {
    const { last } = checkpoints
    if (last === undefined) return 'it has no checkpoint to go on from. Start a new run with other options.'
    return (
      `go on from the last good checkpoint, of step ${last}, with other options, such as a lower learning rate: ` +
      `${command(' --optimizer.rate ...')}`
    )
  }
  const report = () => writeWhole(files.report, reportHtml({ config, options, rows, sample }))
  adviseOnGpuLoss(() => {
    // A run without a config cannot be resumed.
    if (!train || !existsSync(files.config)) return 'start again.'
    const { last } = checkpoints
    return last === undefined
      ? `the run has no checkpoint yet, and starts anew with ${command('')}`
      : `go on from step ${last} with ${command('')}`
  })

  /** Writes a checkpoint, unless a variable contains NaN. */
  async function save(): Promise<void> {
    const { hyperparameters, ...others } = options
    const notes = { config, rows, options: others, hyperparameters, code: place.code }
    try {
      await write(() => checkpoints.save(state, notes))
    } catch (error) {
      if (!(error instanceof DivergedError)) throw error
      const message = `There is no checkpoint of step ${state.at.step}, since ${error.message}`
      if (options.onNan !== 'go')
        throw new UserError(`${message}: the run has diverged. It stops: ${remedy()}`)
      warn(`${message}.`)
    }
  }

  return {
    rows,
    get trains() {
      return train && !again && (target === undefined || firstToReach(target, rows) === undefined)
    },

    async begin(about) {
      if (!before) {
        config = { ...config, name: await makeFolder(runs, options.run) }
        folder = join(runs, config.name)
        files = filesOf(folder)
        checkpoints = checkpointsIn(files.checkpoints, warn)
        lock = await lockFolder(folder)
      }
      config = { ...config, about }
      await write(() => writeWhole(files.config, showConfig(config)))
      const { step, done } = state.at
      const goesOn =
        from === undefined
          ? ''
          : done >= 1
            ? `, done after ${step} steps: more --steps or --seconds go on with it`
            : `, from step ${step} on`
      console.log(headerText({ ...about, run: `${printable(folder)}${goesOn}` }))
    },

    async add(row) {
      rows.push(row)
      await write(() => appendRow(files.metrics, row))
      if (row.valLoss === undefined && whatDiverged(row) === undefined) return
      const isDue = options.checkpoint > 0 && evaluationsIn(rows).length % options.checkpoint === 0
      if (isDue && whatDiverged(row) === undefined) await save()
      await write(report)
    },

    divergence(row) {
      return new UserError(
        `The ${whatDiverged(row)} at step ${row.step}: the run has diverged. It stops, since --on-nan is stop; ${remedy()}`,
      )
    },

    async trained(loss) {
      if (!train || state.at.step === 0) return
      if (options.checkpoint > 0 && Number.isFinite(loss)) await save()
      if (target !== undefined) console.log(targetText(target, rows))
    },

    async sampled(text) {
      sample = text
      if (!train) return
      await write(async () => {
        await writeWhole(files.sample, `${text}\n`)
        await report()
      })
    },
  }
}

/** Warns if the code or the text, on which the results depend, have changed since the run was started. */
function warnOfChanges(folder: string, before: Config, now: Config): void {
  const may = 'it may not go on as it would have.'
  if (before.environment.code !== now.environment.code)
    warn(`The code has changed since ${folder} was started: ${may}`)
  if (before.text !== undefined && now.text !== undefined && before.text !== now.text)
    warn(`The text to train on has changed since ${folder} was started: ${may}`)
}

/** Options that do not affect what a run computes, only its length, output, memory or threads. */
const neutral = ['seconds', 'steps', 'prompt', 'sample', 'target', 'checkpoint', 'log', 'memory', 'threads']

/** Whether a diverged run may do better when it is resumed, since its options or its code have changed. */
function mayDiffer({ onNan }: RunOptions, before: Config, now: Config): boolean {
  if (onNan === 'go' || before.environment.code !== now.environment.code) return true
  const isNamed = (name: string) => (argument: string) => argument.startsWith(`--${name}=`)
  return before.arguments.some(
    argument => !neutral.some(name => isNamed(name)(argument)) && !now.arguments.includes(argument),
  )
}

function targetText(target: number, rows: readonly MetricsRow[]): string {
  const first = firstToReach(target, rows)
  const last = evaluationsIn(rows).at(-1)
  if (first)
    return `val_loss ${target} was reached after ${first.seconds.toFixed(1)} seconds, at step ${first.step}.`
  return `val_loss ${target} was not reached${last ? `: it is ${last.valLoss.toFixed(4)} after ${last.seconds.toFixed(1)} seconds` : ''}.`
}
