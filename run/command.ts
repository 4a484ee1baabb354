import { findsGpu } from './device.ts'
import { scriptName } from './environment.ts'
import { UserError, handleErrors } from './errors.ts'
import { type RunOptions, runFlags } from './flags.ts'
import {
  type Command,
  type Flag,
  type Hyperparameters,
  type Options,
  isOption,
  parseOptions,
} from './options.ts'
import { repeatRun } from './repeat.ts'
import { type Resumed, resumed } from './resume.ts'

/**
 * The options of a script that trains: its own and runFlags, from the command line, and behind these from the run that
 * it goes on with or samples from. A new run on a real GPU that is not told what to train on has the options `onGpu`,
 * written as on a command line. From here on errors are shown as users expect. With --repeat the script runs once for
 * each seed, and the process ends here.
 */
export async function readOptions<const Flags extends Record<string, Flag>, Group extends Hyperparameters>({
  onGpu = '',
  ...own
}: Command<Flags, Group> & { onGpu?: string }): Promise<Options<Flags, Group> & RunOptions> {
  handleErrors()
  const args = process.argv.slice(2)
  const run = await resumed(args)
  const command = { ...own, flags: { ...own.flags, ...runFlags } }
  const before = run ? savedArguments(run, command) : []
  const rest = run ? run.own : args
  // RunOptions is what runFlags gives.
  const parse = (...preset: string[]) =>
    parseOptions([...preset, ...before, ...rest], command) as unknown as Options<Flags, Group> & RunOptions
  let options = parse()
  if (onGpu && !run && options.data === undefined && (await findsGpu(options)))
    options = parse(...onGpu.trim().split(/\s+/))
  if (options.profile && (options.repeat > 1 || !options.train))
    throw new UserError('--profile times one step of training: leave --repeat and --no-train out.')
  if (options.repeat > 1) await repeatRun(options)
  return options
}

/** The saved options of a run, but those that the script has no more: these are named. */
function savedArguments(
  { config, saved }: Resumed,
  command: Command<Record<string, Flag>, Hyperparameters>,
): string[] {
  const { script } = config.environment
  if (script !== scriptName())
    throw new UserError(`The run ${config.name} is one of ${script}, not of ${scriptName()}.`)
  const gone = saved.filter(argument => !isOption(command, argument))
  if (gone.length > 0) {
    console.error(
      `The run ${config.name} has ${gone.join(' ')}, of which ${script} knows nothing: it goes on without.`,
    )
  }
  return saved.filter(argument => !gone.includes(argument))
}
