/** The config.json of a run, from which --resume takes its options. */
import { isRecord } from '../../common/json.ts'
import { showSealed } from '../../common/sealed-json.ts'

export type Config = {
  readonly name: string
  /** When the run was first started, in ISO 8601. */
  readonly started: string
  /** The command line with all options spelled out, so that later changes of the defaults do not matter. */
  readonly arguments: readonly string[]
  readonly environment: Readonly<Record<string, string>> & { readonly script: string; readonly code: string }
  /** Identifies the text that the run trains on. */
  readonly text?: string | undefined
  /** The lines of the run's header. */
  readonly about: Readonly<Record<string, string>>
}

/** Options that apply to one command, not to the run. */
const ofOneCommand = ['run', 'runs', 'resume', 'repeat', 'train', 'profile']
/** Options never taken from a run's folder, which may come from someone else: they access files or servers elsewhere. */
export const onlyNamed = ['log', 'mirror'] as const

/** The text of a config.json. */
export const showConfig = (config: Config): string => `${showSealed(config)}\n`

/** The arguments that a config.json keeps. */
export const keptArguments = (all: readonly string[]): string[] =>
  all.filter(argument => !ofOneCommand.some(name => argument.startsWith(`--${name}=`)))

/** The config in the content of a config.json; or words that say what it lacks, such as "has no environment". */
export function configOf(content: Readonly<Record<string, unknown>>, name: string): Config | string {
  const { started, arguments: args, environment, about, text } = content
  if (
    typeof started !== 'string' ||
    !/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(started) ||
    isNaN(Date.parse(started))
  )
    return 'does not say when the run was started'
  if (!Array.isArray(args) || !args.every(isArgument)) return "has no list of the run's arguments"
  if (!isTexts(environment) || !environment.script || !environment.code) return 'has no environment'
  if (!isTexts(about)) return 'does not say what the run is about'
  if (text !== undefined && typeof text !== 'string') return 'has no fingerprint of the text'
  const { script, code } = environment
  return {
    name,
    started,
    arguments: keptArguments(args),
    environment: { ...environment, script, code },
    ...(text !== undefined && { text }),
    about,
  }
}

const isArgument = (value: unknown): value is string => typeof value === 'string' && /^--[\w.-]+=/.test(value)

const isTexts = (value: unknown): value is Readonly<Record<string, string>> =>
  isRecord(value) && Object.values(value).every(text => typeof text === 'string')
