/** A run's config.json: what the run is, and the options that --resume takes from there. */
import { isRecord } from '../../common/json.ts'
import { showSealed } from '../../common/sealed-json.ts'

/** What a run's config.json says of it. */
export type Config = {
  readonly name: string
  /** When it was started first, as ISO 8601. */
  readonly started: string
  /** The command line that gives its options, whatever their defaults become. */
  readonly arguments: readonly string[]
  readonly environment: Readonly<Record<string, string>> & { readonly script: string; readonly code: string }
  /** Stands for the text that it is trained on. */
  readonly text?: string | undefined
  /** What the run said of itself at start. */
  readonly about: Readonly<Record<string, string>>
}

/** What is said of one call, or names what it writes to or fetches from outside the run's folder. */
const ofOneCall = ['run', 'runs', 'resume', 'repeat', 'train', 'profile']
/** What a run's folder says of these is not believed: it may be somebody else's. */
export const onlyNamed = ['log', 'mirror'] as const

/** The text of a config.json. */
export const showConfig = (config: Config): string => `${showSealed(config)}\n`

/** The arguments that a config.json keeps. */
export const keptArguments = (all: readonly string[]): string[] =>
  all.filter(argument => !ofOneCall.some(name => argument.startsWith(`--${name}=`)))

/** The config that the content of a config.json stands for; or in words what it lacks, such as "has no environment". */
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
