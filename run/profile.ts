/** --explain and --profile: they show the compiled training step, or time it, instead of training. */
import {
  type Backend,
  type CompiledProgram,
  type Inputs,
  type Parameters,
  type StepTime,
  parametersOf,
  recordOrigins,
} from '../engine/index.ts'
import { UserError } from '../common/errors.ts'
import { explainJson } from './explain/explain-json.ts'
import { explainText } from './explain/explain-text.ts'
import { type ExplainedProgram, explain } from './explain/explained.ts'
import { wrapList } from './explain/table.ts'
import { kernelTable, lineTable } from './explain/profile-text.ts'
import { headerText } from './terminal/header.ts'
import type { Flag, FlagValues } from './options/options.ts'

/** The options of scripts that can say what their training step does, and where its time goes. */
export const profileFlags = {
  explain: { type: 'boolean', default: false, help: 'prints the kernels of a step instead of training' },
  profile: { type: 'boolean', default: false, help: 'times the kernels of a step instead of training' },
  json: { type: 'boolean', default: false, help: 'with --explain or --profile: prints JSON' },
} as const satisfies Record<string, Flag>

type ProfileOptions = FlagValues<typeof profileFlags>

/** A compiled function, and inputs for it. */
export type Inspected = readonly [
  step: {
    prepare(inputs: Inputs): Promise<CompiledProgram>
    profile(inputs: Inputs): Promise<StepTime[]>
  },
  inputs: () => Inputs,
]

/** Steps that are timed: of each kernel's times the shortest counts. More than one while they are quick. */
const mostSteps = 5
const enoughSeconds = 5

/** Columns of the output where it goes to no terminal, and at least. */
const usualWidth = 100
const leastWidth = 72

/**
 * With --explain or --profile, shows or times the functions that make up a training step, each under its name, and ends
 * the process; without, does nothing. They must not have been compiled yet: only now is recorded which lines they come
 * from. state: the variables, which are named by their paths in it.
 */
export async function inspectStep(
  options: ProfileOptions,
  backend: Backend,
  state: Parameters,
  functions: Readonly<Record<string, Inspected>>,
): Promise<void> {
  if (!options.explain && !options.profile) {
    if (options.json) throw new UserError('--json goes with --explain or --profile.')
    return
  }
  recordOrigins([new URL('.', import.meta.url).href])
  const names = new Map(parametersOf(state).map(([name, variable]) => [variable, name]))
  const programs: ExplainedProgram[] = []
  for (const [name, [compiled, inputs]] of Object.entries(functions)) {
    const program = await compiled.prepare(inputs())
    const times = options.profile ? await shortestTimes(() => compiled.profile(inputs())) : undefined
    programs.push(explain(name, program, names, times))
  }
  await print(shown(options, backend, programs))
  await backend.close()
  process.exit(0)
}

const kernelNotes = `∂: the gradient of a line. +2: the kernel computes two other lines as well.
A kernel that starts with + continues on the rows of the one above: both are timed together.`

const lineNotes = 'A kernel that computes several lines is divided among them by the elements that they take.'

function shown(
  { profile, json }: ProfileOptions,
  { description, peakGflops }: Backend,
  programs: readonly ExplainedProgram[],
): string {
  if (json) return JSON.stringify({ backend: description, peakGflops, ...explainJson(programs) }, null, 2)
  const width = Math.max(leastWidth, process.stdout.columns ?? usualWidth)
  const [first, ...more] = wrapList(description.split(', '), width - 9)
  const header = headerText({
    backend: [first, ...more.map(line => ' '.repeat(9) + line)].join('\n'),
    peak: `${peakGflops.toFixed(0)} GFLOP/s`,
  })
  const views = profile
    ? [kernelNotes, kernelTable(programs, width), lineNotes, lineTable(programs, width)]
    : programs.map(program => explainText(program, width))
  return [header, ...views].join('\n\n')
}

/** The shortest time of each step of a program over a few runs. */
async function shortestTimes(profile: () => Promise<StepTime[]>): Promise<StepTime[]> {
  const start = performance.now()
  let shortest = await profile()
  for (let runs = 1; runs < mostSteps && performance.now() - start < enoughSeconds * 1000; runs++) {
    const times = await profile()
    shortest = shortest.map((time, i) => (times[i].milliseconds < time.milliseconds ? times[i] : time))
  }
  return shortest
}

/** Writes all of a text before the process may end. */
const print = (text: string): Promise<void> =>
  new Promise(resolve => {
    process.stdout.write(`${text}\n`, () => resolve())
  })
