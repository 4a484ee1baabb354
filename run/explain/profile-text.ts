/** What --profile prints: times by kernel, and by line of the script. */
import {
  type Cost,
  type ExplainedKernel,
  type ExplainedProgram,
  type ExplainedStep,
  functionCosts,
  originsOf,
  sumOf,
} from './explained.ts'
import { placesOf, sourceOf } from './lines.ts'
import { fit, table } from './table.ts'

/** Kinds of steps that take a smaller share of the time are summed up in one row. */
const leastShare = 0.001

/** Steps that took longest first. Equal ones, such as those of repeated blocks, are one row; their sum is the last. */
export function kernelTable(programs: readonly ExplainedProgram[], width: number): string {
  const steps = programs.flatMap(({ name, steps }) => steps.map(step => ({ ...step, program: name })))
  const { file, placeOf } = placesOf(originsOf(programs))
  const kinds = [...Map.groupBy(steps, keyOf).values()]
    .map(equal => ({ step: equal[0], count: equal.length, cost: sumOf(equal.map(costOf)) }))
    .sort((a, b) => b.cost.milliseconds - a.cost.milliseconds)
  const all = sumOf(kinds.map(({ cost }) => cost))
  const [shown, rest] = [true, false].map(isShown =>
    kinds.filter(({ cost }) => cost.milliseconds >= leastShare * all.milliseconds === isShown),
  )
  const numbers = (cost: Cost, count: number) => [
    ...timeOf(cost, all),
    String(count),
    cost.flops > 0 ? (cost.flops / cost.milliseconds / 1e6).toFixed(1) : '',
    (cost.bytes / cost.milliseconds / 1e6).toFixed(1),
  ]
  const sizes = Math.max(...steps.flatMap(step => rowsOf(step, placeOf).map(({ place }) => place.length)))
  // Times, shares, counts and speeds take 38 columns in most tables; words get at most what they need.
  const room = Math.min(width - 40 - sizes, Math.max(...steps.flatMap(wordLengths)))
  const rows = [
    ...shown.map(({ step, cost, count }) => ({
      numbers: numbers(cost, count),
      texts: rowsOf(step, placeOf).map(({ words, place }) => `${fit(words, room).padEnd(room)}  ${place}`),
    })),
    ...(rest.length === 0
      ? []
      : [
          {
            numbers: numbers(
              sumOf(rest.map(({ cost }) => cost)),
              rest.reduce((sum, { count }) => sum + count, 0),
            ),
            texts: [`${rest.length} other kinds`],
          },
        ]),
    { numbers: numbers(all, steps.length), texts: ['in all'] },
  ]
  const title = `${'kernel'.padEnd(room)}  ${file ? `line of ${file}` : 'line'}`
  return table(['ms', '%', 'times', 'GFLOP/s', 'GB/s'], title, rows, width)
}

/** Times by function of the script, those that took longest first, and in each by line. */
export function lineTable(programs: readonly ExplainedProgram[], width: number): string {
  const { file, placeOf } = placesOf(originsOf(programs))
  const functions = functionCosts(programs).sort((a, b) => b.total.milliseconds - a.total.milliseconds)
  const all = sumOf(functions.map(({ total }) => total))
  const numbers = ({
    total,
    forward,
    gradient,
  }: Readonly<Record<'total' | 'forward' | 'gradient', Cost>>) => [
    ...timeOf(total, all),
    inMilliseconds(forward),
    gradient.milliseconds > 0 ? inMilliseconds(gradient) : '',
  ]
  const rows = functions.flatMap(own => [
    { numbers: numbers(own), texts: [own.name] },
    ...own.lines.flatMap(line =>
      line.origin
        ? [{ numbers: numbers(line), texts: [`  ${placeOf(line.origin)}  ${sourceOf(line.origin)}`] }]
        : [],
    ),
  ])
  const sums = {
    total: all,
    forward: sumOf(functions.map(({ forward }) => forward)),
    gradient: sumOf(functions.map(({ gradient }) => gradient)),
  }
  const title = file ? `function, line of ${file}` : 'function, line'
  const last = { numbers: numbers(sums), texts: ['in all'] }
  return table(['ms', '%', 'forward', 'gradient'], title, [...rows, last], width)
}

const costOf = ({ kernels, milliseconds = NaN }: ExplainedStep): Cost => ({
  ...sumOf(kernels.map(({ call }) => ({ ...call, milliseconds: 0 }))),
  milliseconds,
})

/** The same for kernels that do the same for the same lines. */
const kindOf = ({ words, lines }: ExplainedKernel): string =>
  [words, ...lines.map(({ origin: { file, line, isGradient } }) => `${file}:${line}:${isGradient}`)].join(
    '\n',
  )

const keyOf = ({ kernels }: ExplainedStep): string => kernels.map(kindOf).join('\n\n')

const inMilliseconds = ({ milliseconds }: Cost): string => milliseconds.toFixed(3)

const timeOf = (cost: Cost, all: Cost): string[] => [
  inMilliseconds(cost),
  ((100 * cost.milliseconds) / all.milliseconds).toFixed(1),
]

/** The kernels of a step, equal neighbours as one. */
function runsOf({ kernels }: ExplainedStep): { kernel: ExplainedKernel; count: number }[] {
  const runs: { kernel: ExplainedKernel; count: number }[] = []
  for (const kernel of kernels) {
    const last = runs.at(-1)
    if (last && kindOf(last.kernel) === kindOf(kernel)) last.count++
    else runs.push({ kernel, count: 1 })
  }
  return runs
}

/** Each kernel of a step in words, and the line that most of it comes from. */
function rowsOf(
  step: ExplainedStep & { readonly program: string },
  placeOf: (origin: ExplainedKernel['lines'][number]['origin']) => string,
): { words: string; place: string }[] {
  return runsOf(step).map(({ kernel, count }, i) => {
    const [first, ...others] = kernel.lines.toSorted((a, b) => b.share - a.share)
    const times = count > 1 ? `${count} × ` : ''
    const words = `${i > 0 ? '+ ' : ''}${times}${kernel.words}`
    if (!first) return { words, place: '' }
    const { origin } = first
    const more = others.length > 0 ? ` +${others.length}` : ''
    const place = `${origin.isGradient ? '∂' : ' '}${placeOf(origin)} ${origin.function ?? step.program}${more}`
    return { words, place }
  })
}

const wordLengths = (step: ExplainedStep): number[] =>
  runsOf(step).map(({ kernel }) => kernel.words.length + 6)
