import { scriptName } from './environment.ts'
import { UserError } from './errors.ts'
import { findRun } from './folders.ts'

/**
 * The command line, with the saved options of the run that it goes on with (--resume) or only samples from
 * (--no-train) ahead of its own, which win. Without a name that is the run started last.
 */
export async function withSavedOptions(args: readonly string[]): Promise<string[]> {
  const resume = find(args, 'resume')
  const samples = args.includes('--no-train')
  if ((!resume && !samples) || args.includes('--help') || args.includes('-h')) return [...args]
  const [run, runs] = [find(args, 'run'), find(args, 'runs')]
  const config = await findRun(runs?.value ?? 'runs', resume?.value ?? run?.value)
  const { script } = config.environment
  if (script !== scriptName())
    throw new UserError(`The run ${config.name} is one of ${script}, not of ${scriptName()}.`)
  // That a run wrote no sample at its end is no reason not to write one now.
  const saved = config.arguments.filter(argument => !samples || !argument.startsWith('--sample='))
  const own = args.filter((_, i) => !resume?.places.includes(i))
  return [...saved, ...own, `--resume=${config.name}`]
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
