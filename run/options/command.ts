/** Reads the options of a script that trains, from the command line and from the run to resume. */
import { findsGpu } from '../device.ts'
import { scriptName } from '../record/environment.ts'
import { UserError } from '../../common/errors.ts'
import { handleErrors } from '../process/handle-errors.ts'
import { type RunOptions, runFlags } from './flags.ts'
import {
  type Command,
  type Flag,
  type Hyperparameters,
  type Options,
  isOption,
  parseOptions,
} from './options.ts'
import { warn } from '../../common/printable.ts'
import { repeatRun } from '../repeat.ts'
import { type Resumed, resumed } from './resume.ts'
import { isSameScript } from './script.ts'

/** The options of a new run on a real GPU. */
interface GpuPreset {
  /** Options, written as on a command line, including --data. */
  onGpu?: string
  /** The source of adapters, by default Dawn in Node. */
  gpu?: GPU
}

/**
 * The options of a script that trains: its own and runFlags. The command line comes first, then the run to resume or to
 * sample from. A new run on a real GPU uses `onGpu` for options that the command line leaves out, unless that names a
 * different text or tokenizer. This also installs handleErrors. With --repeat, the script runs once for each seed, and the
 * process ends here.
 */
export async function readOptions<const Flags extends Record<string, Flag>, Group extends Hyperparameters>({
  onGpu = '',
  gpu,
  ...own
}: Command<Flags, Group> & GpuPreset): Promise<Options<Flags, Group> & RunOptions> {
  handleErrors()
  const args = process.argv.slice(2)
  const run = await resumed(args, warn)
  const preset = onGpu.split(/\s+/).filter(Boolean)
  const note =
    preset.length > 0
      ? `On a GPU, unless another --data or --tokenizer is named: ${preset.join(' ')}`
      : undefined
  const command = { ...own, flags: { ...own.flags, ...runFlags }, note }
  const before = run ? savedArguments(run, command) : []
  const rest = run ? run.own : args
  // RunOptions has the values of runFlags.
  const parse = (args: readonly string[]) =>
    parseOptions(args, command) as unknown as Options<Flags, Group> & RunOptions
  let options = parse([...before, ...rest])
  const usual = parse(preset)
  const namesOther = (['data', 'tokenizer'] as const).some(
    name => options[name] !== undefined && options[name] !== usual[name],
  )
  if (preset.length > 0 && !run && !namesOther && (await findsGpu(options, gpu)))
    options = parse([...preset, ...rest])
  if ((options.profile || options.explain) && (options.repeat > 1 || !options.train))
    throw new UserError(
      '--profile and --explain show one step of training: leave --repeat and --no-train out.',
    )
  if (options.repeat > 1) await repeatRun(options)
  return options
}

/** The saved options of a run. Warns about those that the script no longer has, and leaves them out. */
function savedArguments(
  { config, saved, dropped }: Resumed,
  command: Command<Record<string, Flag>, Hyperparameters>,
): string[] {
  const { script } = config.environment
  if (!isSameScript(script, scriptName()))
    throw new UserError(`The run ${config.name} is one of ${script}, not of ${scriptName()}.`)
  for (const argument of dropped)
    warn(
      `The run ${config.name} had ${argument}, which is only taken from a command line: it goes on without.`,
    )
  const gone = saved.filter(argument => !isOption(command, argument))
  if (gone.length > 0) {
    warn(`The run ${config.name} has ${gone.join(' ')}, which ${script} does not have: it goes on without.`)
  }
  return saved.filter(argument => !gone.includes(argument))
}
