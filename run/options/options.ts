/** The command line: what its options take, their values, and --help. */
import { parseArgs } from 'node:util'
import { type Domain, contains, domainText } from './domain.ts'
import { UserError } from '../../common/errors.ts'
import { nearestName } from '../../common/nearest-name.ts'

/** An option of the command: what it takes, what it is without one given, and its line of --help. */
export type Flag =
  | ({ type: 'integer' | 'number'; default?: number; help: string } & Pick<
      Domain,
      'minimum' | 'maximum' | 'above'
    >)
  | { type: 'string'; default?: string; choices?: readonly string[]; value?: string; help: string }
  | { type: 'boolean'; default?: boolean; help: string }

/**
 * Numbers, strings, booleans and lists of numbers, in groups of any depth: each is an option by its name. A default
 * that says too much or too little of what its hyperparameter takes is bounded().
 */
export type Hyperparameters = {
  readonly [name: string]: Value | Bounded<Value> | Hyperparameters
}

/**
 * What a hyperparameter takes. Numbers have bounds as in a Domain; one of them may also be the dotted name of another
 * hyperparameter, and is then what that one is.
 */
export type Rule = {
  integer?: boolean
  minimum?: number | string
  maximum?: number | string
  above?: number
  multipleOf?: number | string
  powerOf?: number
  choices?: readonly string[]
  /** Of a list that may have any number of numbers, none as well. */
  length?: 'any'
}

/** A default, and what else its hyperparameter takes. */
class Bounded<Default> {
  readonly value: Default
  readonly rule: Rule

  constructor(value: Default, rule: Rule) {
    this.value = value
    this.rule = rule
  }
}

/** The default of a hyperparameter that takes what the rule says: bounded(0.5, { above: 0, maximum: 1 }). */
export const bounded = <const Default extends Value>(value: Default, rule: Rule): Bounded<Default> =>
  new Bounded(value, rule)

export type Command<Flags extends Record<string, Flag>, Group extends Hyperparameters> = {
  /** One line: what the program does. */
  summary: string
  flags: Flags
  hyperparameters: Group
  /** A last paragraph of the help. */
  note?: string | undefined
}

type FlagType = { integer: number; number: number; string: string; boolean: boolean }
type FlagValue<F extends Flag> = F extends { default: unknown }
  ? FlagType[F['type']]
  : FlagType[F['type']] | undefined

/** The types of the values: dim may be any number, not its default alone. */
type Opened<Group> =
  Group extends Bounded<infer Default>
    ? Opened<Default>
    : Group extends number
      ? number
      : Group extends boolean
        ? boolean
        : Group extends string
          ? Group
          : Group extends readonly number[]
            ? readonly number[]
            : { -readonly [Name in keyof Group]: Opened<Group[Name]> }

export type FlagValues<Flags extends Readonly<Record<string, Flag>>> = {
  [Name in keyof Flags]: FlagValue<Flags[Name]>
}

export type Options<
  Flags extends Readonly<Record<string, Flag>>,
  Group extends Hyperparameters,
> = FlagValues<Flags> & { hyperparameters: Opened<Group> }

type Value = number | string | boolean | readonly number[]

/** What is known of one option, a flag's or a hyperparameter's. */
type Setting =
  | { kind: 'string'; example: string; choices?: readonly string[] | undefined }
  | { kind: 'boolean'; example: string }
  | NumberSetting

type NumberSetting = Domain & {
  example: string
  /** How many, if it is a list of numbers. */
  length?: number | 'any' | undefined
}

/** What the engine's int32 and float32 hold. */
const largest = { integer: 2 ** 31 - 1, number: (2 - 2 ** -23) * 2 ** 127 } as const

/**
 * Reads the command line: the command's own flags, and every hyperparameter by its dotted name. Its default says
 * what a hyperparameter takes: a whole number takes whole numbers, and 0 only if it is 0 itself; no number takes
 * negative ones unless it is one; a list takes as many numbers of the same kind. What is otherwise is bounded(). No
 * hyperparameter is larger than the engine's numbers can be. Throws UserError for the first value that is not allowed.
 * --help prints the help and ends the process.
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
  // The loops above gave each name a value of the type that its flag or its default says.
  return result as Options<Flags, Group>
}

/** The command line that gives these options, all of them spelled out. */
export function argumentsOf(options: { readonly hyperparameters: Hyperparameters }): string[] {
  const { hyperparameters, ...flags } = options
  return [...Object.entries(flags), ...flatten(hyperparameters)]
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `--${name}=${String(value)}`)
}

/** Whether an argument as argumentsOf makes them is an option of the command. */
export function isOption(command: Command<Record<string, Flag>, Hyperparameters>, argument: string): boolean {
  const name = argument.slice(2).split('=')[0]
  return name in command.flags || flatten(command.hyperparameters).some(([known]) => known === name)
}

/** Every option on the command line with its value, in order; a UserError for the first wrong one. */
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
    strict: false, // its own messages know neither the nearest name nor an example
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

/** `--name true` is `--name=true`: parseArgs never gives a boolean the next argument. */
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

/** `--top-k` is --topK where there is an option of that name. */
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

/** Throws UserError for the first value that goes beyond a bound which is another hyperparameter. */
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
  // Who leaves out the group means its last part: --dim is --net.dim.
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

/** A bound, if it is not the name of another hyperparameter. */
const literal = (bound: number | string | undefined) => (typeof bound === 'number' ? bound : undefined)

/** All hyperparameters by their dotted names, and what is said of each beside its default. */
function flatten(group: Hyperparameters, prefix = ''): [name: string, value: Value, rule: Rule][] {
  return Object.entries(group).flatMap(([name, value]) => {
    if (isGroup(value)) return flatten(value, `${prefix}${name}.`)
    return value instanceof Bounded
      ? [[prefix + name, value.value, value.rule]]
      : [[prefix + name, value, {}]]
  })
}

/** The values of the hyperparameters: the given ones, or else their defaults. */
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

/** The help, made from the same tables as the options. */
function helpText(command: Command<Record<string, Flag>, Hyperparameters>): string {
  const flags = Object.entries<Flag>({ ...command.flags, help: { type: 'boolean', help: 'prints this' } })
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

/** Lines of at most 80 columns: `start`, and beside it the parts, all of them indented. */
function fill(start: string, indent: number, parts: string[], separator: string): string[] {
  const lines = [start.padEnd(indent)]
  for (const [index, part] of parts.entries()) {
    const piece = index < parts.length - 1 ? part + separator : part
    if (lines.at(-1)!.length + piece.trimEnd().length > 80) lines.push(' '.repeat(indent))
    lines[lines.length - 1] += piece
  }
  return lines.map(line => line.trimEnd())
}
