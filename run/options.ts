import { parseArgs } from 'node:util'
import { UserError } from './errors.ts'
import { nearestName } from './names.ts'

/** An option of the command: what it takes, what it is without one given, and its line of --help. */
export type Flag =
  | { type: 'integer' | 'number'; default?: number; minimum?: number; help: string }
  | { type: 'string'; default?: string; choices?: readonly string[]; value?: string; help: string }
  | { type: 'boolean'; default?: boolean; help: string }

/** Numbers, strings, booleans and lists of numbers, in groups of any depth: each is an option by its name. */
export type Hyperparameters = {
  readonly [name: string]: number | string | boolean | readonly number[] | Hyperparameters
}

/** What a hyperparameter may be, where its default says too much or too little. */
export type Rule = {
  integer?: boolean
  minimum?: number
  choices?: readonly string[]
  /** Of a list that may have any number of numbers, none as well. */
  length?: 'any'
}

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
  /** A last paragraph of the help. */
  note?: string | undefined
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

export type FlagValues<Flags extends Readonly<Record<string, Flag>>> = {
  [Name in keyof Flags]: FlagValue<Flags[Name]>
}

export type Options<
  Flags extends Readonly<Record<string, Flag>>,
  Group extends Hyperparameters,
> = FlagValues<Flags> & { hyperparameters: Opened<Group> }

type Value = number | string | boolean | readonly number[]

/** What is known of one option, a flag's or a hyperparameter's. */
type Setting = {
  kind: 'integer' | 'number' | 'string' | 'boolean'
  example: string
  minimum?: number | undefined
  choices?: readonly string[] | undefined
  /** How many, if it is a list of numbers. */
  length?: number | 'any' | undefined
}

/**
 * Reads the command line: the command's own flags, and every hyperparameter by its dotted name. Its default says
 * what a hyperparameter takes: a whole number takes whole numbers, and 0 only if it is 0 itself; no number takes
 * negative ones unless it is one; a list takes as many numbers of the same kind. What is otherwise has a rule.
 * --help prints the help and ends the process.
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
  const { kind, choices, length } = setting
  if (kind === 'boolean' && (text === 'true' || text === 'false')) return text === 'true'
  if (kind === 'string' && (choices?.includes(text) ?? true)) return text
  if (kind === 'number' || kind === 'integer') {
    const parts = length === undefined ? [text] : text === '' ? [] : text.split(',')
    const numbers = parts.flatMap(part => readNumber(part, setting) ?? [])
    const isAll = numbers.length === parts.length
    if (length !== undefined && isAll && (length === 'any' || numbers.length === length)) return numbers
    if (length === undefined && numbers.length === 1) return numbers[0]
  }
  throw wrongValue(name, setting, text)
}

/** A number, if it is of the kind that the setting asks for. */
function readNumber(text: string, { kind, minimum = -Infinity }: Setting): number | undefined {
  const number = Number(text)
  const fits =
    Number.isFinite(number) && number >= minimum && (kind === 'number' || Number.isSafeInteger(number))
  return text.trim() !== '' && fits ? number : undefined
}

function wrongValue(
  name: string,
  { kind, minimum, choices, example, length }: Setting,
  text: string | undefined,
): UserError {
  const atLeast = minimum === undefined ? '' : ` of at least ${minimum}`
  const whole = kind === 'integer' ? 'whole ' : ''
  const kinds = {
    number:
      length === undefined ? `a ${whole}number` : `${length === 'any' ? '' : `${length} `}${whole}numbers`,
    string: choices ? `one of ${choices.join(', ')}` : 'a text',
    boolean: 'true or false',
  }
  const list = length === undefined ? '' : ', a comma between them'
  const takes = kinds[kind === 'integer' ? 'number' : kind]
  const but = text === undefined ? '' : `, not "${text}"`
  return new UserError(`--${name} takes ${takes}${atLeast}${list}${but}. For example: --${name} ${example}`)
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

function hyperparameterSetting(value: Value, rule: Rule = {}): Setting {
  const example = String(value)
  if (typeof value === 'boolean') return { kind: 'boolean', example }
  if (typeof value === 'string') return { kind: 'string', example, choices: rule.choices }
  const numbers = typeof value === 'number' ? [value] : value
  const isWhole = rule.integer ?? numbers.every(Number.isInteger)
  const least = Math.min(...numbers)
  const minimum = rule.minimum ?? (least < 0 ? undefined : isWhole && least > 0 ? 1 : 0)
  const length = typeof value === 'number' ? undefined : (rule.length ?? numbers.length)
  return { kind: isWhole ? 'integer' : 'number', example, minimum, length }
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

function isList(value: Value | Hyperparameters): value is readonly number[] {
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
