import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type State, checkpointsIn } from './checkpoint.ts'
import { environment } from './environment.ts'
import { UserError, adviseWhenLost, codeOf, isOfMachine, reasonOf } from './errors.ts'
import { type RunOptions, runFlags } from './flags.ts'
import { type Config, dateName, filesOf, findRun } from './folders.ts'
import { headerText } from './header.ts'
import { lockFolder } from './lock.ts'
import { makeFolders } from './make-folders.ts'
import { type Evaluation, type MetricsRow, appendRow, evaluationsIn, rewind } from './metrics.ts'
import { argumentsOf } from './options.ts'
import { reportHtml } from './report.ts'
import { loadWeights } from './weights.ts'
import { writeWhole } from './whole-file.ts'

/** What a run leaves behind in its folder, and where it goes on from. */
export type RunRecord = {
  /** Whether there is something to train: not for a sample only, nor once the target is reached. */
  readonly trains: boolean
  /** The rows so far; a run that goes on has its earlier ones. */
  readonly rows: readonly MetricsRow[]
  /** Prints what the run is, and notes it. */
  begin(about: Readonly<Record<string, string>>): Promise<void>
  /** Notes a row of the table; where it has a validation loss, writes a checkpoint if one is due. */
  add(row: MetricsRow): Promise<void>
  /** The end of training, an early one too: writes the last checkpoint. */
  trained(): Promise<void>
  /** Notes the sample. */
  sampled(text: string): Promise<void>
}

/**
 * Opens the folder of a run: of a new one, or (--resume) of one that was there, whose state gets the values of
 * the last checkpoint. All that a run is made of is in `state`: it goes on from there to the last bit.
 */
export async function openRecord(options: RunOptions, state: State): Promise<RunRecord> {
  const { runs, resume, init, target, train } = options
  if (resume !== undefined && options.run !== undefined && options.run !== resume) {
    throw new UserError(`--resume ${resume} goes on under that name: leave --run ${options.run} out.`)
  }
  const before = resume === undefined ? undefined : await findRun(runs, resume)
  if (!before && init !== undefined) await loadWeights(init, state.network)
  const name = before?.name ?? (await makeFolder(runs, options.run))
  const folder = join(runs, name)
  const files = filesOf(folder)
  const checkpoints = checkpointsIn(files.checkpoints, console.error)
  const place = environment()
  const rows: MetricsRow[] = []
  let config: Config = {
    name,
    started: before?.started ?? new Date().toISOString(),
    arguments: argumentsOf(options).filter(argument => !/^--(run|runs|resume|repeat|train)=/.test(argument)),
    environment: place,
    about: {},
  }
  let sample = ''

  if (train) await lockFolder(folder)
  // A sample takes the network alone.
  const needed = train ? state : { ...state, optimizer: {} }
  const isResumed = before !== undefined && (await checkpoints.load(needed))
  if (before && before.environment.code !== place.code && train) {
    console.error(`The code has changed since ${folder} was started: it may not go on as it would have.`)
  }
  if (!isResumed && !train)
    throw new UserError(`${folder} has no checkpoint yet: there is nothing to sample from.`)
  if (before && !isResumed && init !== undefined) await loadWeights(init, state.network)

  /** Writes to the run's folder; what goes wrong there, such as a full disk, is not the program's fault. */
  async function write(action: () => Promise<void>): Promise<void> {
    try {
      await action()
    } catch (error) {
      if (error instanceof UserError || isOfMachine(error)) throw error
      throw new UserError(`${folder} cannot be written to (${reasonOf(error)}); its checkpoints are whole.`)
    }
  }
  const report = () => writeWhole(files.report, reportHtml({ config, options, rows, sample }))
  adviseWhenLost(() => {
    // A run can be named once it has a config.
    if (!train || !existsSync(files.config)) return 'start again.'
    const command = `npm start -- --resume ${name}${runs === runFlags.runs.default ? '' : ` --runs ${runs}`}`
    const { last } = checkpoints
    return last === undefined
      ? `the run has no checkpoint yet, and starts anew with ${command}`
      : `go on from step ${last} with ${command}`
  })
  const reached = () => target !== undefined && evaluationsIn(rows).some(({ valLoss }) => valLoss <= target)

  // What came after the checkpoint is found anew.
  if (before && train)
    await write(async () => void rows.push(...(await rewind(files.metrics, state.at.step))))

  return {
    rows,
    get trains() {
      return train && !reached()
    },

    async begin(about) {
      config = { ...config, about }
      await write(() => writeWhole(files.config, `${JSON.stringify(config, undefined, 2)}\n`))
      const { step, done } = state.at
      const from = !isResumed
        ? ''
        : done >= 1
          ? `, done after ${step} steps: more --steps or --seconds go on with it`
          : `, from step ${step} on`
      console.log(headerText({ ...about, run: `${folder}${from}` }))
    },

    async add(row) {
      rows.push(row)
      await write(async () => {
        await appendRow(files.metrics, row)
        if (row.valLoss === undefined) return
        const isDue = options.checkpoint > 0 && evaluationsIn(rows).length % options.checkpoint === 0
        if (isDue) await checkpoints.save(state, notes(options, place))
        await report()
      })
    },

    async trained() {
      if (!train || state.at.step === 0) return
      if (options.checkpoint > 0) await write(() => checkpoints.save(state, notes(options, place)))
      if (target !== undefined) console.log(targetText(target, evaluationsIn(rows)))
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

/** Makes the folder of a new run, and says its name. */
async function makeFolder(runs: string, wanted: string | undefined): Promise<string> {
  if (wanted !== undefined && !/^\w[\w.-]*$/.test(wanted)) {
    throw new UserError(`--run takes a name of letters, digits, - _ and ., not "${wanted}".`)
  }
  for (let i = 1; ; i++) {
    const name = wanted ?? (i === 1 ? dateName() : `${dateName()}-${i}`)
    const folder = join(runs, name)
    if (await isMade(runs, folder)) return name
    // A folder without a config is that of a run which was killed before it began.
    if (wanted !== undefined && !existsSync(filesOf(folder).config)) return name
    if (wanted !== undefined) {
      throw new UserError(`${folder} exists: take another name, or go on with it: --resume ${name}`)
    }
  }
}

/** Makes a folder, and those above it. False when it was there before. */
async function isMade(above: string, folder: string): Promise<boolean> {
  try {
    await makeFolders(above)
    return await mkdir(folder).then(
      () => true,
      error => codeOf(error) !== 'EEXIST' && Promise.reject(error),
    )
  } catch (error) {
    throw new UserError(`${folder} cannot be made (${reasonOf(error)}).`)
  }
}

const notes = ({ hyperparameters, ...options }: RunOptions, { code }: Readonly<Record<string, string>>) => ({
  options,
  hyperparameters,
  code,
})

function targetText(target: number, evaluations: readonly Evaluation[]): string {
  const first = evaluations.find(({ valLoss }) => valLoss <= target)
  const last = evaluations.at(-1)
  if (first)
    return `val_loss ${target} was reached after ${first.seconds.toFixed(1)} seconds, at step ${first.step}.`
  return `val_loss ${target} was not reached${last ? `: it is ${last.valLoss.toFixed(4)} after ${last.seconds.toFixed(1)} seconds` : ''}.`
}
