/** Finds the runs in a folder of runs. */
import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type Config, configOf } from '../record/config.ts'
import { UserError, codeOf } from '../../common/errors.ts'
import { readable } from '../../common/regular-file.ts'
import { filesOf } from './run-files.ts'
import { nearestName } from '../../common/nearest-name.ts'
import { lastNotes } from '../checkpoint/notes.ts'
import { readOwn } from './own-file.ts'
import { unseal } from '../../common/sealed-json.ts'

/** A run that has a folder. */
export type FoundRun = {
  readonly name: string
  /** When it was started, in milliseconds since 1970, for sorting. Infinity if that is in the future. */
  readonly time: number
  /** Undefined if it cannot be read. */
  readonly config: Config | undefined
  /** A sentence that says why there is no config, or where it comes from if not from config.json. */
  readonly problem: string | undefined
}

// The clocks of machines that share a disk may differ by this much.
const clockError = 3_600_000

/**
 * All runs in a folder of runs, oldest first. Runs with a start in the future come before all others, and runs whose
 * config cannot be read are sorted by the time of its last change.
 */
export async function listRuns(runs: string): Promise<FoundRun[]> {
  const found = await Promise.all((await foldersIn(runs)).map(name => lookAt(runs, name)))
  const order = ({ time }: FoundRun) => (time === Infinity ? -Infinity : time)
  return found.flatMap(run => run ?? []).toSorted((a, b) => order(a) - order(b) || (a.name < b.name ? -1 : 1))
}

/**
 * The run with this name, or the newest one. Calls `warn` if something about it is unusual. Throws a UserError if there is
 * none, if its config cannot be read, or if a run whose config cannot be read may be the newest.
 */
export async function findRun(
  runs: string,
  name: string | undefined,
  warn: (message: string) => void = () => {},
): Promise<Config> {
  const all = await listRuns(runs)
  const found = name === undefined ? newest(all, warn) : all.find(run => run.name === name)
  if (found?.config) {
    if (found.problem !== undefined) warn(found.problem)
    return found.config
  }
  if (found?.problem !== undefined) throw new UserError(found.problem)
  if (name === undefined || all.length === 0) throw new UserError(`There is no run in ${runs} yet.`)
  const nearest = nearestName(
    name,
    all.map(run => run.name),
  )
  throw new UserError(
    `There is no run ${name} in ${runs}: ${nearest ? `did you mean ${nearest}?` : 'npm run runs lists them.'}`,
  )
}

function newest(all: readonly FoundRun[], warn: (message: string) => void): FoundRun | undefined {
  const last = all.findLast(({ config }) => config !== undefined)
  if (!last) return all.at(-1)
  const unclear = all.at(-1)
  if (unclear?.config === undefined && unclear?.problem !== undefined) {
    throw new UserError(
      `${unclear.problem} It may be the newest run: name the one that you mean, such as ${last.name}.`,
    )
  }
  for (const { name, time, config } of all) {
    if (time === Infinity && name !== last.name)
      warn(`The run ${name} says that it was started on ${config?.started}: it is not taken for the newest.`)
  }
  return last
}

/** The run in the folder with this name; undefined if it is not the folder of a run. */
async function lookAt(runs: string, name: string): Promise<FoundRun | undefined> {
  const files = filesOf(join(runs, name))
  const asWritten = await readConfig(files.config, name)
  if (typeof asWritten === 'object')
    return { name, time: startOf(asWritten), config: asWritten, problem: undefined }
  const notes = await lastNotes(files.checkpoints)
  if (asWritten === undefined && !notes?.config) return undefined
  const problem = asWritten ?? `${files.config} is missing`
  if (notes?.config) {
    const config = { ...notes.config, name }
    const from = `what the checkpoint of step ${notes.step} says of the run is taken instead`
    return { name, time: startOf(config), config, problem: `${problem}: ${from}.` }
  }
  const changed = await lstat(files.config).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0,
  )
  return { name, time: changed, config: undefined, problem: `${problem}.` }
}

/** The config in a file, undefined if there is no file; or a sentence, without its period, about what is wrong with it. */
async function readConfig(path: string, name: string): Promise<Config | string | undefined> {
  try {
    const text = await readOwn(path)
    if (text === undefined) return undefined
    const unsealed = unseal(text)
    const config = typeof unsealed === 'string' ? unsealed : configOf(unsealed.content, name)
    return typeof config === 'string' ? `${path} ${config}` : config
  } catch (error) {
    if (error instanceof UserError) return error.message.replace(/\.$/, '')
    throw error
  }
}

function startOf({ started }: Config): number {
  const time = Date.parse(started)
  return time > Date.now() + clockError ? Infinity : time
}

/** The names of the folders in a folder of runs; none if it does not exist. */
async function foldersIn(runs: string): Promise<string[]> {
  const entries = await readable(runs, async () => {
    try {
      return await readdir(runs, { withFileTypes: true })
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return []
      throw error
    }
  })
  return entries.filter(entry => entry.isDirectory()).map(entry => entry.name)
}
