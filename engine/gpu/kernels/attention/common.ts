// What the kernels of attention have in common: their inputs, the form of their products, and pieces of their code.
import type { View } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'
import type { Kernel, Target } from '../kernel.ts'
import { shader } from '../shader.ts'
import { lines } from '../wgsl.ts'
import { type Form, ampleBytes, float } from './form.ts'
import type { Operand } from './operand.ts'
import { fmaForm } from './scalar.ts'
import { matrixForm } from './subgroup-matrix.ts'

/** The inputs of all kernels of one attention. */
export interface Heads {
  readonly batch: number
  readonly heads: number
  readonly length: number
  readonly scale: number
  readonly query: View
  readonly key: View
  readonly value: View
  readonly keyDim: number
  readonly valueDim: number
  /** The slope of the position bias, one for each head. */
  readonly slope: View | undefined
}

/** A kernel with its buffers and the number of its workgroups. */
export interface Call {
  readonly kernel: Kernel
  readonly bindings: Bindings
  readonly workgroups: number
}

/** Scores count in powers of two, for which GPUs have an instruction. */
const log2e = Math.LOG2E

/** Stands for minus infinity. Any score can be subtracted from it without an overflow. */
export const masked = '-1.7e38'

/** The form of products for sums of these widths, with the largest tiles that fit the GPU and the sequence. */
export function formOf(length: number, target: Target, widths: readonly number[]): Form {
  // The rest is for the statistics of columns.
  const bytes = Math.min(target.workgroupBytes, ampleBytes) - 1024
  const tiles = [
    { rows: 64, columns: 64 },
    { rows: 64, columns: 32 },
    { rows: 32, columns: 32 },
    { rows: 16, columns: 16 },
  ].filter(({ rows }) => rows <= 16 || length > rows / 2)
  const forms = [matrixForm, fmaForm].flatMap(make =>
    tiles.map(tile => make({ ...tile, widths, bytes, target })),
  )
  const form = forms.find(form => form !== undefined)
  if (!form) throw new Error('the GPU has too little workgroup memory for attention')
  return form
}

/** Whether the registers of one workgroup hold all of these sums together. */
export function fitTogether(length: number, target: Target, widths: readonly number[]): boolean {
  const { chunks, most } = formOf(length, target, widths)
  return chunks.every((chunk, i) => chunk >= widths[i]) && chunks.reduce((a, b) => a + b, 0) <= most
}

/** The number of tiles that a sequence's queries have in a kernel for sums of these widths. */
export const queryTiles = (length: number, target: Target, widths: readonly number[]): number =>
  Math.ceil(length / formOf(length, target, widths).rows)

/** Statements that split an index into the numbers of its parts, the fastest one first. */
export function split(index: string, parts: readonly (readonly [name: string, count: number])[]): string {
  let divisor = 1
  return parts
    .map(([name, count], i) => {
      const quotient = divisor === 1 ? index : `${index} / ${divisor}`
      divisor *= count
      const isLast = i === parts.length - 1
      return count === 1 ? `let ${name} = 0u;` : `let ${name} = ${quotient}${isLast ? '' : ` % ${count}`};`
    })
    .join('\n  ')
}

/** Declares the distances j - i from queries i to keys j for each vector's elements, as vec4f named distance0, ... */
export function distances(form: Form, isOfQueries: boolean): string {
  const { vectors, ownRows, columnStep } = form
  const steps = `vec4f(0, ${columnStep}, ${2 * columnStep}, ${3 * columnStep})`
  return lines(vectors.length, v => {
    const { row, column } = vectors[v]
    const [rowIndex, columnIndex] = [`i32(rowStart + ${ownRows[row]})`, `i32(columnStart + ${column})`]
    return isOfQueries
      ? `let distance${v} = f32(${columnIndex} - ${rowIndex}) + ${steps};`
      : `let distance${v} = f32(${rowIndex} - ${columnIndex}) - ${steps};`
  })
}

/** The scores of a vector of products, in powers of two. The fma makes all kernels round them alike. */
export const scaled = (product: string, vector: number, { scale, slope }: Heads): string => {
  const score = `${product} * ${float(scale * log2e)}`
  return slope ? `fma(vec4f(slope), distance${vector}, ${score})` : score
}

/** Declares a head's slope, in powers of two. */
export const slopeOf = (heads: Heads, bindings: Bindings): string =>
  heads.slope
    ? `let slope = ${bindings.name(heads.slope.buffer)}[${heads.slope.offset} + head] * ${log2e};`
    : ''

/** The name of a kernel for these shapes. */
export function nameOf(what: string, { batch, heads, length, keyDim, valueDim }: Heads, form?: Form): string {
  const shapes = `${batch}×${heads}×${length}×${keyDim}/${valueDim}`
  return ['attention', what, shapes, ...(form ? [`in ${form.name}`] : [])].join(' ')
}

/** Puts a kernel's code together. */
export function finished(
  name: string,
  body: string,
  operands: readonly Operand[],
  form: Form,
  {
    bindings,
    target,
    workgroups,
    declarations = '',
  }: { bindings: Bindings; target: Target; workgroups: number; declarations?: string },
): Call {
  const code = shader({
    bindings,
    target,
    size: form.size,
    workgroups,
    subgroupMatrix: form.loads === 'f16',
    declarations: `${form.declarations}\n${declarations}\n${operands.map(operand => operand.declarations).join('\n')}`,
    body,
  })
  return { kernel: { name, code }, bindings, workgroups }
}
