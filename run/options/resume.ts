import { type Config, onlyNamed } from '../record/config.ts'
import { findRun } from '../folders/find-run.ts'
import { filesOf } from '../folders/run-files.ts'
import { join } from 'node:path'
import { lastNotes } from '../checkpoint/notes.ts'

/** A command line that goes on with a run (--resume), or only samples from one (--no-train). */
export type Resumed = {
  readonly config: Config
  /** The folder that the run's folder is in. */
  readonly runs: string
  /** The options that the run has, as arguments. */
  readonly saved: readonly string[]
  /** The command line's own, which win. */
  readonly own: readonly string[]
}

/**
 * The run that a command line is about: the one that it names, or the one started last. Undefined where it starts a
 * new one. `warn` is told of what the run's folder says and is not taken from there. Throws UserError when there is no
 * such run.
 */
export async function resumed(
  args: readonly string[],
  warn: (message: string) => void = () => {},
): Promise<Resumed | undefined> {
  const resume = find(args, 'resume')
  const samples = args.includes('--no-train')
  if ((!resume && !samples) || args.includes('--help') || args.includes('-h')) return undefined
  const run = find(args, 'run')
  const runs = find(args, 'runs')?.value ?? 'runs'
  const found = await findRun(runs, resume?.value ?? run?.value, warn)
  const config = await likeItsCheckpoint(found, runs, warn)
  // That a run wrote no sample at its end is no reason not to write one now; and --seconds replaces --steps.
  const replaced = [...(samples ? ['sample'] : []), ...(find(args, 'seconds') ? ['steps'] : [])]
  const isOf = (argument: string) => (name: string) => argument.startsWith(`--${name}=`)
  for (const name of samples ? [] : onlyNamed) {
    const left = config.arguments.find(argument => isOf(argument)(name))
    if (left === undefined || find(args, name)) continue
    warn(`The run ${config.name} had ${left}, which is taken from a command line alone: it goes on without.`)
  }
  return {
    config,
    runs,
    saved: config.arguments.filter(argument => ![...replaced, ...onlyNamed].some(isOf(argument))),
    own: [...args.filter((_, i) => !resume?.places.includes(i)), `--resume=${config.name}`],
  }
}

/**
 * The config.json of early versions has no checksum, but their checkpoints have a copy of the options that has one. Where
 * the two differ the checkpoint's are taken.
 */
async function likeItsCheckpoint(
  config: Config,
  runs: string,
  warn: (message: string) => void,
): Promise<Config> {
  const folder = join(runs, config.name)
  const notes = await lastNotes(filesOf(folder).checkpoints)
  // With a copy of the whole config comes a config.json with a checksum.
  if (!notes || notes.config) return config
  const [own, copy] = [new Set(config.arguments), new Set(notes.arguments)]
  const onlyOwn = config.arguments.filter(argument => !copy.has(argument))
  const onlyCopy = notes.arguments.filter(argument => !own.has(argument))
  const wrongCode = notes.code !== undefined && notes.code !== config.environment.code
  if (onlyOwn.length === 0 && onlyCopy.length === 0 && !wrongCode) return config
  const differences = [onlyOwn, onlyCopy].map(all => all.join(' ') || 'nothing')
  if (onlyOwn.length + onlyCopy.length > 0) {
    warn(
      `${filesOf(folder).config} says ${differences[0]} where the checkpoint of step ${notes.step} says ` +
        `${differences[1]}: the checkpoint's options are taken.`,
    )
  }
  const { code = config.environment.code } = notes
  return { ...config, arguments: notes.arguments, environment: { ...config.environment, code } }
}

/** Where an option is among the arguments, and its value if one follows. */
function find(
  args: readonly string[],
  name: string,
): { value: string | undefined; places: number[] } | undefined {
  const place = args.findLastIndex(arg => arg === `--${name}` || arg.startsWith(`--${name}=`))
  if (place < 0) return undefined
  const inline = args[place].split('=').slice(1).join('=')
  if (inline) return { value: inline, places: [place] }
  const next = args.at(place + 1)
  return next === undefined || next.startsWith('-')
    ? { value: undefined, places: [place] }
    : { value: next, places: [place, place + 1] }
}
