/** Parses command lines: options and their values, hyperparameters, and --help. */
import { parseArgs } from 'node:util'
import { type Domain, contains, domainText } from './domain.ts'
import { UserError } from '../../common/errors.ts'
import { nearestName } from '../../common/nearest-name.ts'

/** An option: its type, its default, and its line in --help. */
export type Flag =
  | ({ type: 'integer' | 'number'; default?: number; help: string } & Pick<
      Domain,
      'minimum' | 'maximum' | 'above'
    >)
  | { type: 'string'; default?: string; choices?: readonly string[]; value?: string; help: string }
  | { type: 'boolean'; default?: boolean; help: string }

/**
 * Hyperparameters with their defaults, in groups of any depth. Each is an option with its dotted name. The default implies
 * which values are allowed; use bounded() for other rules.
 */
export type Hyperparameters = {
  readonly [name: string]: Value | Bounded<Value> | Hyperparameters
}

/**
 * The values that a hyperparameter takes. The bounds are those of a Domain. A bound may also be the dotted name of another
 * hyperparameter, and is then the value of that one.
 */
export type Rule = {
  integer?: boolean
  minimum?: number | string
  maximum?: number | string
  above?: number
  multipleOf?: number | string
  powerOf?: number
  choices?: readonly string[]
  /** 'any' for a list of any length, including an empty one. */
  length?: 'any'
}

/** A default with a rule for other values. */
class Bounded<Default> {
  readonly value: Default
  readonly rule: Rule

  constructor(value: Default, rule: Rule) {
    this.value = value
    this.rule = rule
  }
}

/** A default with a rule for other values: bounded(0.5, { above: 0, maximum: 1 }). */
export const bounded = <const Default extends Value>(value: Default, rule: Rule): Bounded<Default> =>
  new Bounded(value, rule)

export type Command<Flags extends Record<string, Flag>, Group extends Hyperparameters> = {
  /** What the program does, in one line. */
  summary: string
  flags: Flags
  hyperparameters: Group
  /** The last paragraph of --help. */
  note?: string | undefined
}

type FlagType = { integer: number; number: number; string: string; boolean: boolean }
type FlagValue<F extends Flag> = F extends { default: unknown }
  ? FlagType[F['type']]
  : FlagType[F['type']] | undefined

/** The types of the values: a number instead of the literal type of a default. */
type Widened<Group> =
  Group extends Bounded<infer Default>
    ? Widened<Default>
    : Group extends number
      ? number
      : Group extends boolean
        ? boolean
        : Group extends string
          ? Group
          : Group extends readonly number[]
            ? readonly number[]
            : { -readonly [Name in keyof Group]: Widened<Group[Name]> }

export type FlagValues<Flags extends Readonly<Record<string, Flag>>> = {
  [Name in keyof Flags]: FlagValue<Flags[Name]>
}

export type Options<
  Flags extends Readonly<Record<string, Flag>>,
  Group extends Hyperparameters,
> = FlagValues<Flags> & { hyperparameters: Widened<Group> }

type Value = number | string | boolean | readonly number[]

/** The type and bounds of an option, whether flag or hyperparameter. */
type Setting =
  | { kind: 'string'; example: string; choices?: readonly string[] | undefined }
  | { kind: 'boolean'; example: string }
  | NumberSetting

type NumberSetting = Domain & {
  example: string
  /** The number of elements, for a list. */
  length?: number | 'any' | undefined
}

/** The largest numbers of the engine's int32 and float32. */
const largest = { integer: 2 ** 31 - 1, number: (2 - 2 ** -23) * 2 ** 127 } as const

/**
 * Parses a command line with the command's flags, and with each hyperparameter by its dotted name. The default of a
 * hyperparameter implies the values that it takes: an integer takes integers, and 0 only if the default is 0; negative
 * numbers are allowed only if the default is negative; a list takes lists of the same length. bounded() sets other rules.
 * Numbers that the engine cannot represent are refused. Throws a UserError for the first value that is not allowed. --help
 * prints the help and ends the process.
 */
export function parseOptions<const Flags extends Record<string, Flag>, Group extends Hyperparameters>(
  args: readonly string[],
  command: Command<Flags, Group>,
): Options<Flags, Group> {
  const flags = new Map(Object.entries(command.flags))
  const settings = new Map<string, Setting>([
    ['help', { kind: 'boolean', example: '' }],
    ...[...flags].map(([name, flag]) => [name, flagSetting(flag)] as const),
    ...flatten(command.hyperparameters).map(
      ([name, value, rule]) => [name, hyperparameterSetting(value, rule)] as const,
    ),
  ])

  const given = new Map<string, Value>()
  for (const { name, value } of readArguments(args, settings)) given.set(name, value)
  if (given.has('help')) {
    console.log(helpText(command))
    process.exit(0)
  }

  const result: Record<string, unknown> = {}
  for (const [name, flag] of flags) result[name] = given.get(name) ?? flag.default
  const hyperparameters = replaced(command.hyperparameters, given)
  checkTogether(command.hyperparameters, hyperparameters)
  result.hyperparameters = hyperparameters
  // The code above gave each name a value of the type of its flag or default.
  return result as Options<Flags, Group>
}

/** The command line with all of these options spelled out. */
export function argumentsOf(options: { readonly hyperparameters: Hyperparameters }): string[] {
  const { hyperparameters, ...flags } = options
  return [...Object.entries(flags), ...flatten(hyperparameters)]
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `--${name}=${String(value)}`)
}

/** Whether an argument made by argumentsOf is an option of the command. */
export function isOption(command: Command<Record<string, Flag>, Hyperparameters>, argument: string): boolean {
  const name = argument.slice(2).split('=')[0]
  return name in command.flags || flatten(command.hyperparameters).some(([known]) => known === name)
}

/** The options on a command line with their values, in order. Throws a UserError for the first wrong one. */
function* readArguments(
  args: readonly string[],
  settings: Map<string, Setting>,
): Generator<{ name: string; value: Value }> {
  const { tokens } = parseArgs({
    args: joinBooleans(
      args.map(arg => inCamelCase(arg, settings)),
      settings,
    ),
    options: Object.fromEntries(
      [...settings].map(([name, { kind }]) => [
        name,
        { type: kind === 'boolean' ? 'boolean' : 'string' } as const,
      ]),
    ),
    strict: false, // its error messages have neither the nearest name nor an example
    allowPositionals: true,
    tokens: true,
  })
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue
    if (token.kind === 'positional') {
      throw new UserError(`"${token.value}" is not an option: these begin with --, and --help lists them.`)
    }
    const off = token.name.startsWith('no-') && settings.get(token.name.slice(3))?.kind === 'boolean'
    const name = token.rawName === '-h' ? 'help' : off ? token.name.slice(3) : token.name
    const setting = settings.get(name)
    if (!setting) throw unknownOption(token.rawName, settings)
    if (setting.kind === 'boolean' && token.value === undefined) {
      yield { name, value: !off }
    } else {
      const swallowed = token.value === undefined || (!token.inlineValue && token.value.startsWith('--'))
      if (off || swallowed) throw wrongValue(name, setting, undefined)
      yield { name, value: readValue(name, setting, token.value) }
    }
  }
}

/** Turns `--name true` into `--name=true`, since parseArgs takes no separate value for a boolean. */
function joinBooleans(args: readonly string[], settings: Map<string, Setting>): string[] {
  const joined: string[] = []
  for (const arg of args) {
    const before = joined.at(-1)
    const isBoolean = before?.startsWith('--') && settings.get(before.slice(2))?.kind === 'boolean'
    if (isBoolean && !arg.startsWith('-')) joined[joined.length - 1] = `${before}=${arg}`
    else joined.push(arg)
  }
  return joined
}

/** Turns `--top-k` into `--topK` if there is an option of that name. */
function inCamelCase(arg: string, settings: Map<string, Setting>): string {
  const [, name, value] = /^--([^=]+)(.*)$/s.exec(arg) ?? []
  const camel = name?.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())
  return camel !== name && camel !== undefined && settings.has(camel) ? `--${camel}${value}` : arg
}

function readValue(name: string, setting: Setting, text: string): Value {
  if (setting.kind === 'boolean') {
    if (text === 'true' || text === 'false') return text === 'true'
  } else if (setting.kind === 'string') {
    if (setting.choices?.includes(text) ?? true) return text
  } else {
    const { length } = setting
    const parts = length === undefined ? [text] : text === '' ? [] : text.split(',')
    const numbers = parts.map(part => (part.trim() === '' ? NaN : Number(part)))
    const isAll = numbers.every(number => contains(setting, number))
    if (length !== undefined && isAll && (length === 'any' || numbers.length === length)) return numbers
    if (length === undefined && isAll) return numbers[0]
  }
  throw wrongValue(name, setting, text)
}

function wrongValue(name: string, setting: Setting, text: string | undefined): UserError {
  const but = text === undefined ? '' : `, not "${text}"`
  return new UserError(
    `--${name} takes ${takenBy(setting, text)}${but}. For example: --${name} ${setting.example}`,
  )
}

function takenBy(setting: Setting, text: string | undefined): string {
  if (setting.kind === 'boolean') return 'true or false'
  if (setting.kind === 'string') return setting.choices ? `one of ${setting.choices.join(', ')}` : 'a text'
  const { length } = setting
  const domain = domainText(setting, {
    ...(text !== undefined && { text }),
    ...(length !== undefined && { many: length }),
  })
  return length === undefined ? domain : `${domain}, a comma between them`
}

/** Throws a UserError for the first value outside a bound that is another hyperparameter. */
function checkTogether(described: Hyperparameters, hyperparameters: Hyperparameters): void {
  const values = new Map(flatten(hyperparameters).map(([name, value]) => [name, value] as const))
  for (const [name, , rule] of flatten(described)) {
    const value = values.get(name)
    for (const kind of ['minimum', 'maximum', 'multipleOf'] as const) {
      const other = rule[kind]
      if (typeof other !== 'string') continue
      const bound = values.get(other)
      if (typeof bound !== 'number' || typeof value !== 'number')
        throw new TypeError(`${name} is bounded by ${other}: both must be single numbers`)
      const domain = { kind: 'number', [kind]: bound, limit: Infinity } as const
      if (contains(domain, value)) continue
      const takes = domainText(domain, {})
      throw new UserError(`--${name} takes ${takes}, which is what --${other} is, not ${value}.`)
    }
  }
}

function unknownOption(rawName: string, settings: Map<string, Setting>): UserError {
  const name = rawName.replace(/^-+/, '')
  // The group may have been left out: --dim means --net.dim.
  const byLastPart = new Map([...settings.keys()].map(full => [full.split('.').at(-1)!, full]))
  const last = nearestName(name, byLastPart.keys())
  const exact = byLastPart.get(name)
  const nearest = exact ?? nearestName(name, settings.keys()) ?? (last && byLastPart.get(last))
  const hint = nearest ? `did you mean --${nearest}?` : '--help lists the options.'
  return new UserError(`There is no option ${rawName}: ${hint}`)
}

function flagSetting(flag: Flag): Setting {
  const { type, default: value } = flag
  const example = (otherwise: string) => String(value ?? otherwise)
  if (type === 'boolean') return { kind: type, example: example('true') }
  if (type === 'string')
    return {
      kind: type,
      example: example(flag.choices?.[0] ?? placeholder(flag).trim()),
      choices: flag.choices,
    }
  const { minimum, maximum, above } = flag
  const isWhole = type === 'integer'
  const limit = isWhole ? Number.MAX_SAFE_INTEGER : Number.MAX_VALUE
  return { kind: type, example: example(isWhole ? '4' : '1.5'), minimum, maximum, above, limit }
}

function hyperparameterSetting(value: Value, rule: Rule): Setting {
  const example = String(value)
  if (typeof value === 'boolean') return { kind: 'boolean', example }
  if (typeof value === 'string') return { kind: 'string', example, choices: rule.choices }
  const numbers = typeof value === 'number' ? [value] : value
  const kind = (rule.integer ?? numbers.every(Number.isInteger)) ? 'integer' : 'number'
  const least = Math.min(...numbers)
  const usual = rule.above !== undefined || least < 0 ? undefined : kind === 'integer' && least > 0 ? 1 : 0
  return {
    kind,
    example,
    minimum: literal(rule.minimum) ?? usual,
    maximum: literal(rule.maximum),
    above: rule.above,
    multipleOf: literal(rule.multipleOf),
    powerOf: rule.powerOf,
    limit: largest[kind],
    length: typeof value === 'number' ? undefined : (rule.length ?? numbers.length),
  }
}

/** A bound that is a number, not the name of another hyperparameter. */
const literal = (bound: number | string | undefined) => (typeof bound === 'number' ? bound : undefined)

/** All hyperparameters with their dotted names, defaults and rules. */
function flatten(group: Hyperparameters, prefix = ''): [name: string, value: Value, rule: Rule][] {
  return Object.entries(group).flatMap(([name, value]) => {
    if (isGroup(value)) return flatten(value, `${prefix}${name}.`)
    return value instanceof Bounded
      ? [[prefix + name, value.value, value.rule]]
      : [[prefix + name, value, {}]]
  })
}

/** The values of the hyperparameters: given on the command line, or their defaults. */
function replaced(group: Hyperparameters, given: Map<string, Value>, prefix = ''): Hyperparameters {
  return Object.fromEntries(
    Object.entries(group).map(([name, value]) => {
      if (isGroup(value)) return [name, replaced(value, given, `${prefix}${name}.`)]
      const usual = value instanceof Bounded ? value.value : value
      return [name, given.get(prefix + name) ?? usual]
    }),
  )
}

function isGroup(value: Hyperparameters[string]): value is Hyperparameters {
  return typeof value === 'object' && !Array.isArray(value) && !(value instanceof Bounded)
}

/** The text of --help. */
function helpText(command: Command<Record<string, Flag>, Hyperparameters>): string {
  const flags = Object.entries<Flag>({ ...command.flags, help: { type: 'boolean', help: 'print this help' } })
  const lines = flags.map(([name, flag]) => [`  --${name}${placeholder(flag)}`, describe(flag)] as const)
  const indent = Math.max(...lines.map(([left]) => left.length)) + 2
  const groups = Map.groupBy(flatten(command.hyperparameters), ([name]) =>
    name.slice(0, name.lastIndexOf('.') + 1),
  )
  const groupIndent = Math.max(...[...groups.keys()].map(group => group.length)) + 6
  return [
    command.summary,
    '',
    ...lines.flatMap(([left, help]) => fill(left, indent, help.split(' '), ' ')),
    ...(groups.size > 0
      ? ['', 'Hyperparameters, with their defaults (set one with --group.name VALUE):']
      : []),
    ...[...groups].flatMap(([group, members]) => {
      const defaults = members.map(([name, value]) => `${name.slice(group.length)} ${value}`)
      return fill(`  --${group}`, groupIndent, defaults, ', ')
    }),
    ...(command.note === undefined ? [] : ['', ...fill('', 0, command.note.split(' '), ' ')]),
  ].join('\n')
}

function placeholder(flag: Flag): string {
  if (flag.type === 'boolean') return ''
  if (flag.type !== 'string') return ' N'
  return ` ${flag.value ?? flag.choices?.join('|') ?? 'TEXT'}`
}

function describe(flag: Flag): string {
  return flag.default === undefined || flag.default === '' ? flag.help : `${flag.help} (${flag.default})`
}

/** Lines of at most 80 columns: `start`, then the parts, indented. */
function fill(start: string, indent: number, parts: string[], separator: string): string[] {
  const lines = [start.padEnd(indent)]
  for (const [index, part] of parts.entries()) {
    const piece = index < parts.length - 1 ? part + separator : part
    if (lines.at(-1)!.length + piece.trimEnd().length > 80) lines.push(' '.repeat(indent))
    lines[lines.length - 1] += piece
  }
  return lines.map(line => line.trimEnd())
}
