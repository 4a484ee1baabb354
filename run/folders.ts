import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError, codeOf, reasonOf } from './errors.ts'
import { nearestName } from './names.ts'

/** What a run's config.json says of it. */
export type Config = {
  readonly name: string
  /** When it was started first, as ISO 8601. */
  readonly started: string
  /** The command line that gives its options, whatever their defaults become. */
  readonly arguments: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** Stands for the text that it is trained on. */
  readonly text?: string | undefined
  /** What the run said of itself at start. */
  readonly about: Readonly<Record<string, string>>
}

/** The files in the folder of a run. */
export const filesOf = (folder: string) => ({
  config: join(folder, 'config.json'),
  metrics: join(folder, 'metrics.jsonl'),
  checkpoints: join(folder, 'checkpoints'),
  sample: join(folder, 'sample.txt'),
  report: join(folder, 'report.html'),
})

/** Date and time here, as a name that sorts: 2026-03-31-235959. */
export const dateName = (date = new Date()): string =>
  date.toLocaleString('sv').replace(' ', '-').replaceAll(':', '')

/** All runs in a folder of runs, the one that was started first ahead. */
export async function listRuns(runs: string): Promise<Config[]> {
  const configs = await Promise.all((await namesIn(runs)).map(name => readConfig(runs, name)))
  return configs.flatMap(config => config ?? []).toSorted((a, b) => (a.started < b.started ? -1 : 1))
}

/** The run of this name, or the one that was started last. Throws UserError when there is none. */
export async function findRun(runs: string, name: string | undefined): Promise<Config> {
  const all = await listRuns(runs)
  const found = name === undefined ? all.at(-1) : all.find(config => config.name === name)
  if (found) return found
  if (name === undefined || all.length === 0) throw new UserError(`There is no run in ${runs} yet.`)
  const nearest = nearestName(
    name,
    all.map(config => config.name),
  )
  throw new UserError(
    `There is no run ${name} in ${runs}: ${nearest ? `did you mean ${nearest}?` : 'npm run runs lists them.'}`,
  )
}

async function namesIn(runs: string): Promise<string[]> {
  try {
    const entries = await readdir(runs, { withFileTypes: true })
    return entries.filter(entry => entry.isDirectory()).map(entry => entry.name)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []
    throw new UserError(`${runs} cannot be read (${reasonOf(error)}).`)
  }
}

/** Nothing where a folder is no run's. */
async function readConfig(runs: string, name: string): Promise<Config | undefined> {
  try {
    const config: Config = JSON.parse(await readFile(filesOf(join(runs, name)).config, 'utf8'))
    return { ...config, name, arguments: [...config.arguments] }
  } catch {
    return undefined
  }
}
