import { type Config, findRun } from './folders.ts'

/** A command line that goes on with a run (--resume), or only samples from one (--no-train). */
export type Resumed = {
  readonly config: Config
  /** The options that the run has, as arguments. */
  readonly saved: readonly string[]
  /** The command line's own, which win. */
  readonly own: readonly string[]
}

/**
 * The run that a command line is about: the one that it names, or the one started last. Undefined where it starts a
 * new one. Throws UserError when there is no such run.
 */
export async function resumed(args: readonly string[]): Promise<Resumed | undefined> {
  const resume = find(args, 'resume')
  const samples = args.includes('--no-train')
  if ((!resume && !samples) || args.includes('--help') || args.includes('-h')) return undefined
  const [run, runs] = [find(args, 'run'), find(args, 'runs')]
  const config = await findRun(runs?.value ?? 'runs', resume?.value ?? run?.value)
  // That a run wrote no sample at its end is no reason not to write one now; and --seconds replaces --steps.
  const replaced = [...(samples ? ['sample'] : []), ...(find(args, 'seconds') ? ['steps'] : [])]
  return {
    config,
    saved: config.arguments.filter(argument => !replaced.some(name => argument.startsWith(`--${name}=`))),
    own: [...args.filter((_, i) => !resume?.places.includes(i)), `--resume=${config.name}`],
  }
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
