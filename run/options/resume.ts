/** Finds the run that a command line resumes or samples from, and its saved options. */
import { type Config, onlyNamed } from '../record/config.ts'
import { findRun } from '../folders/find-run.ts'
import { filesOf } from '../folders/run-files.ts'
import { join } from 'node:path'
import { lastNotes } from '../checkpoint/notes.ts'

/** A run that a command line resumes (--resume) or samples from (--no-train). */
export type Resumed = {
  readonly config: Config
  /** The folder of runs. */
  readonly runs: string
  /** The run's saved options, as arguments. */
  readonly saved: readonly string[]
  /** The arguments of this command line, which take precedence. */
  readonly own: readonly string[]
  /** Saved options that only a command line may give, and this one does not: they are not used. */
  readonly dropped: readonly string[]
}

/**
 * The run that a command line resumes or samples from: the one that it names, or the newest. Undefined if it starts a new
 * run. Calls `warn` for a config that differs from its checkpoint's. Throws a UserError if there is no such run.
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
  const config = await checkedByCheckpoint(found, runs, warn)
  // --sample 0 of the run does not keep --no-train from writing a sample, and --seconds replaces --steps.
  const replaced = [...(samples ? ['sample'] : []), ...(find(args, 'seconds') ? ['steps'] : [])]
  const hasName = (argument: string) => (name: string) => argument.startsWith(`--${name}=`)
  const dropped = (samples ? [] : onlyNamed).flatMap(name =>
    find(args, name) ? [] : config.arguments.filter(argument => hasName(argument)(name)),
  )
  return {
    config,
    runs,
    saved: config.arguments.filter(argument => ![...replaced, ...onlyNamed].some(hasName(argument))),
    own: [...args.filter((_, i) => !resume?.places.includes(i)), `--resume=${config.name}`],
    dropped,
  }
}

/**
 * The config, with the checkpoint's options where the two differ. The config.json of early versions has no checksum, but
 * the copy of the options in their checkpoints has one.
 */
async function checkedByCheckpoint(
  config: Config,
  runs: string,
  warn: (message: string) => void,
): Promise<Config> {
  const folder = join(runs, config.name)
  const notes = await lastNotes(filesOf(folder).checkpoints)
  // Versions that keep the whole config in checkpoints also write a checksum into config.json.
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

/** The position of an option among the arguments, and its value if it has one. */
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
