import { parseArgs } from 'node:util'
import { UserError } from './errors.ts'
import { nearestName } from './nearest.ts'

/** An option of the command: what it takes, what it is without one given, and its line of --help. */
export type Flag =
  | { type: 'integer' | 'number'; default?: number; minimum?: number; help: string }
  | { type: 'string'; default?: string; choices?: readonly string[]; value?: string; help: string }
  | { type: 'boolean'; default?: boolean; help: string }

/** Numbers, strings, booleans and lists of numbers, in groups of any depth: each is an option by its name. */
export type Hyperparameters = {
  readonly [name: string]: number | string | boolean | readonly number[] | Hyperparameters
}

/** What a hyperparameter may be, beyond the type of its default. */
export type Rule = { integer?: boolean; minimum?: number; choices?: readonly string[] }

/** The dotted names of all hyperparameters: 'net.dim'. */
export type DottedName<Group> = Group extends Hyperparameters
  ? {
      [Name in keyof Group & string]: Group[Name] extends Hyperparameters
        ? `${Name}.${DottedName<Group[Name]>}`
        : Name
    }[keyof Group & string]
  : never

export type Command<Flags extends Record<string, Flag>, Group extends Hyperparameters> = {
  /** One line: what the program does. */
  summary: string
  flags: Flags
  hyperparameters: Group
  rules?: { readonly [Name in DottedName<Group>]?: Rule }
}

type FlagType = { integer: number; number: number; string: string; boolean: boolean }
type FlagValue<F extends Flag> = F extends { default: unknown }
  ? FlagType[F['type']]
  : FlagType[F['type']] | undefined

/** Literal types of the defaults opened up: dim may be any number, not 128 alone. */
type Opened<Group> = Group extends number
  ? number
  : Group extends boolean
    ? boolean
    : Group extends string
      ? Group
      : Group extends readonly number[]
        ? readonly number[]
        : { -readonly [Name in keyof Group]: Opened<Group[Name]> }

export type Options<Flags extends Record<string, Flag>, Group extends Hyperparameters> = {
  [Name in keyof Flags]: FlagValue<Flags[Name]>
} & { hyperparameters: Opened<Group> }

type Value = number | string | boolean | readonly number[]

/** What is known of one option, a flag's or a hyperparameter's. */
type Setting = {
  kind: 'integer' | 'number' | 'string' | 'boolean' | 'list'
  example: string
  minimum?: number | undefined
  choices?: readonly string[] | undefined
  /** Of a list. */
  length?: number | undefined
}

/**
 * Reads the command line: the command's own flags, and every hyperparameter by its dotted name. The defaults
 * say which type each one takes. --help prints the help and ends the process.
 */
export function parseOptions<const Flags extends Record<string, Flag>, Group extends Hyperparameters>(
  args: readonly string[],
  command: Command<Flags, Group>,
): Options<Flags, Group> {
  const flags = new Map(Object.entries(command.flags))
  const rules = new Map<string, Rule | undefined>(Object.entries(command.rules ?? {}))
  const settings = new Map<string, Setting>([
    ['help', { kind: 'boolean', example: '' }],
    ...[...flags].map(([name, flag]) => [name, flagSetting(flag)] as const),
    ...flatten(command.hyperparameters).map(
      ([name, value]) => [name, hyperparameterSetting(value, rules.get(name))] as const,
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
  result.hyperparameters = replaced(command.hyperparameters, given)
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
  const { kind, minimum = -Infinity, choices } = setting
  if (kind === 'boolean' && (text === 'true' || text === 'false')) return text === 'true'
  if (kind === 'string' && (choices?.includes(text) ?? true)) return text
  if (kind === 'list') {
    const list = text.split(',').map(readNumber)
    if (list.length === setting.length && list.every(number => number !== undefined)) return list
  }
  if (kind === 'number' || kind === 'integer') {
    const number = readNumber(text)
    const fits =
      number !== undefined && number >= minimum && (kind === 'number' || Number.isSafeInteger(number))
    if (fits) return number
  }
  throw wrongValue(name, setting, text)
}

function readNumber(text: string): number | undefined {
  const number = Number(text)
  return text.trim() !== '' && Number.isFinite(number) ? number : undefined
}

function wrongValue(
  name: string,
  { kind, minimum, choices, example, length }: Setting,
  text: string | undefined,
): UserError {
  const atLeast = minimum === undefined ? '' : ` of at least ${minimum}`
  const kinds = {
    integer: `a whole number${atLeast}`,
    number: `a number${atLeast}`,
    string: choices ? `one of ${choices.join(', ')}` : 'a text',
    boolean: 'true or false',
    list: `${length} numbers, a comma between them`,
  }
  const but = text === undefined ? '' : `, not "${text}"`
  return new UserError(`--${name} takes ${kinds[kind]}${but}. For example: --${name} ${example}`)
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
  const limits =
    type === 'string' ? { choices: flag.choices } : type === 'boolean' ? {} : { minimum: flag.minimum }
  const examples = {
    integer: '4',
    number: '1.5',
    string: limits.choices?.[0] ?? placeholder(flag).trim(),
    boolean: 'true',
  }
  return { kind: type, example: String(value ?? examples[type]), ...limits }
}

function hyperparameterSetting(value: Value, { integer, minimum, choices }: Rule = {}): Setting {
  const kind =
    typeof value === 'number'
      ? integer
        ? 'integer'
        : 'number'
      : typeof value === 'string'
        ? 'string'
        : typeof value === 'boolean'
          ? 'boolean'
          : 'list'
  const length = isList(value) ? value.length : undefined
  return { kind, example: String(value), minimum, choices, length }
}

/** All hyperparameters with their dotted names. */
function flatten(group: Hyperparameters, prefix = ''): [name: string, value: Value][] {
  return Object.entries(group).flatMap(([name, value]) =>
    isGroup(value) ? flatten(value, `${prefix}${name}.`) : [[prefix + name, value]],
  )
}

/** A copy of the hyperparameters, with the given ones in their places. */
function replaced(group: Hyperparameters, given: Map<string, Value>, prefix = ''): Hyperparameters {
  return Object.fromEntries(
    Object.entries(group).map(([name, value]) => [
      name,
      isGroup(value) ? replaced(value, given, `${prefix}${name}.`) : (given.get(prefix + name) ?? value),
    ]),
  )
}

function isList(value: unknown): value is readonly unknown[] {
  return Array.isArray(value)
}

function isGroup(value: Value | Hyperparameters): value is Hyperparameters {
  return typeof value === 'object' && !isList(value)
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
    '',
    'Hyperparameters, with their defaults (set one with --group.name VALUE):',
    ...[...groups].flatMap(([group, members]) => {
      const defaults = members.map(([name, value]) => `${name.slice(group.length)} ${value}`)
      return fill(`  --${group}`, groupIndent, defaults, ', ')
    }),
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
