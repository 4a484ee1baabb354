import { findsGpu } from '../device.ts'
import { scriptName } from '../record/environment.ts'
import { UserError, handleErrors } from '../../common/errors.ts'
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
import { type Resumed, resumed } from '../record/resume.ts'
import { isSameScript } from '../record/script.ts'

/** What a new run does on a real GPU. */
interface GpuPreset {
  /** Options, written as on a command line; the text that it trains on is one of them. */
  onGpu?: string
  /** Where adapters come from: by default Dawn in Node. */
  gpu?: GPU
}

/**
 * The options of a script that trains: its own and runFlags, from the command line, and behind these from the run that
 * it goes on with or samples from. A new run on a real GPU has the options `onGpu` behind these, unless the command line
 * names another text or tokenizer than they do. From here on errors are shown as users expect. With --repeat the script
 * runs once for each seed, and the process ends here.
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
  // RunOptions is what runFlags gives.
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

/** The saved options of a run, but those that the script has no more: these are named. */
function savedArguments(
  { config, saved }: Resumed,
  command: Command<Record<string, Flag>, Hyperparameters>,
): string[] {
  const { script } = config.environment
  if (!isSameScript(script, scriptName()))
    throw new UserError(`The run ${config.name} is one of ${script}, not of ${scriptName()}.`)
  const gone = saved.filter(argument => !isOption(command, argument))
  if (gone.length > 0) {
    warn(
      `The run ${config.name} has ${gone.join(' ')}, of which ${script} knows nothing: it goes on without.`,
    )
  }
  return saved.filter(argument => !gone.includes(argument))
}
