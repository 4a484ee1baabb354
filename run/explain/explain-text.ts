/** What --explain prints: a compiled program, kernel by kernel. */
import type { BufferName } from './buffers.ts'
import {
  type ExplainedKernel,
  type ExplainedProgram,
  type ExplainedStep,
  functionCosts,
  originsOf,
  sumOf,
} from './explained.ts'
import { type LineShare, placesOf, sourceOf } from './lines.ts'
import { fit, table, wrapList } from './table.ts'
import { amount, shapeText } from './words.ts'

/** Columns before a kernel's words, and before the names of its memory. */
const indent = 6
const listIndent = indent + 9

/** What the kernels of a program have in common. */
interface Layout {
  readonly program: string
  readonly width: number
  readonly placeOf: (origin: LineShare['origin']) => string
  /** Columns of a line's place, and of its function. */
  readonly place: number
  readonly function: number
}

/** A program as text in so many columns. */
export function explainText(program: ExplainedProgram, width: number): string {
  const origins = originsOf([program])
  const { file, placeOf } = placesOf(origins)
  const widest = (texts: readonly string[]) => texts.reduce((most, { length }) => Math.max(most, length), 0)
  const layout = {
    program: program.name,
    width,
    placeOf,
    place: widest(origins.map(placeOf)),
    function: Math.min(16, widest(origins.map(origin => origin.function ?? program.name))),
  }
  let number = 0
  const kernels = program.steps.flatMap(step =>
    step.kernels.map((kernel, i) => kernelText(kernel, ++number, step, i > 0, layout)),
  )
  return [heading(program, file, width), ...kernels, totals(program, width)].join('\n\n')
}

function heading(
  { name, compiled, steps }: ExplainedProgram,
  file: string | undefined,
  width: number,
): string {
  const inputs = compiled.inputs.map(({ name, dtype, shape }) => `${name} ${dtype} ${shapeText(shape)}`)
  const hasBarriers = steps.some(({ barrier }) => barrier !== undefined)
  const notes = [
    `a number is a line of ${file ?? 'its file'}, ∂ the gradient of that line`,
    ...(hasBarriers ? ['barrier: all threads wait for each other before the kernel'] : []),
    ...(steps.some(({ kernels }) => kernels.length > 1)
      ? ['same rows: a thread goes on with the block of rows of the kernel above']
      : []),
  ]
  return [
    name,
    ...list('inputs', inputs, width),
    ...list('outputs', compiled.outputNames, width),
    ...notes.map((note, i) => (i === 0 ? list('notes', [note], width) : list('', [note], width))).flat(),
  ].join('\n')
}

function kernelText(
  { call, words, lines, reads, writes }: ExplainedKernel,
  number: number,
  { barrier }: ExplainedStep,
  isChained: boolean,
  layout: Layout,
): string {
  const { width } = layout
  const costs = [
    ...(call.flops > 0 ? [amount(call.flops, 'FLOP')] : []),
    amount(call.bytes, 'B'),
    ...(isChained ? ['same rows'] : barrier ? ['barrier'] : []),
  ].join(', ')
  const room = width - indent - costs.length - 2
  const [first, ...more] = wrapList(words.split(', '), width - indent, room)
  const noted = ({ name, note }: BufferName) => (note ? `${name} (${note})` : name)
  return [
    `${String(number).padStart(indent - 2)}  ${first.padEnd(room)}  ${costs}`,
    ...more.map(line => ' '.repeat(indent) + line),
    ...lines.map((line, i) => lineText(line, lines[i - 1], layout)),
    ...list(
      'reads',
      reads.map(({ name }) => name),
      width,
    ),
    ...list('writes', writes.map(noted), width),
  ].join('\n')
}

function lineText({ origin }: LineShare, before: LineShare | undefined, layout: Layout): string {
  const place = layout.placeOf(origin).padStart(layout.place)
  const name = fit(origin.function ?? layout.program, layout.function).padEnd(layout.function)
  const start = `${' '.repeat(indent)}${origin.isGradient ? '∂' : ' '} ${place}  ${name}  `
  // The line is there already, where a kernel computes both something and its gradient.
  const isSame = before?.origin.line === origin.line && before.origin.file === origin.file
  return isSame ? start.trimEnd() : start + fit(sourceOf(origin), layout.width - start.length)
}

/** Words with a name before them, in lines under each other. */
function list(name: string, words: readonly string[], width: number): string[] {
  if (words.length === 0) return []
  return wrapList(words, width - listIndent).map(
    (line, i) => `${' '.repeat(indent)}${i === 0 ? name : ''}`.padEnd(listIndent) + line,
  )
}

function totals(program: ExplainedProgram, width: number): string {
  const { name, compiled, steps } = program
  const kernels = steps.flatMap(({ kernels }) => kernels)
  const all = sumOf(kernels.map(({ call }) => ({ ...call, milliseconds: 0 })))
  const rows = [
    ...functionCosts([program])
      .sort((a, b) => b.total.bytes - a.total.bytes)
      .map(({ name, total }) => ({
        numbers: [total.flops > 0 ? amount(total.flops, 'FLOP') : '', amount(total.bytes, 'B')],
        texts: [name],
      })),
    { numbers: [amount(all.flops, 'FLOP'), amount(all.bytes, 'B')], texts: [`${name} in all`] },
  ]
  const barriers = steps.filter(({ barrier }) => barrier).length
  const counts = [`${kernels.length} kernels`]
  if (steps.some(({ barrier }) => barrier !== undefined))
    counts.push(`${barriers} barriers, ${kernels.length - steps.length} go on with the same rows`)
  const { variableBytes, temporaryBytes, compileTime } = compiled
  return [
    table(['products', 'memory moved'], 'function', rows, width),
    '',
    `kernels   ${counts.join(', ')}`,
    `memory    ${amount(variableBytes, 'B')} of variables, ${amount(temporaryBytes, 'B')} of temporaries`,
    `compiled  in ${(compileTime / 1000).toFixed(2)} s`,
  ].join('\n')
}
