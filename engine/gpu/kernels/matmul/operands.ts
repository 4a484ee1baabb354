import type { Matmul, Matrix } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'
import type { ElementType, TypeOf } from '../kernel.ts'

/** How many elements a kernel reads or writes at once. */
export type Lanes = 1 | 2 | 4

/** a or b of a product, as a kernel sees it: lines of elements side by side, either along k or across it. */
export interface Operand {
  readonly side: 'a' | 'b'
  readonly matrix: Matrix
  readonly type: ElementType
  readonly lanes: Lanes
  /** Whether elements with neighbouring k lie side by side; else neighbouring rows of a, or columns of b. */
  readonly isAlongK: boolean
  /** Rows of a, or columns of b. */
  readonly extent: number
  readonly depth: number
  readonly lineStride: number
  readonly batchStride: number
  /** The array that it is in. */
  readonly array: string
}

/** Where sums go: c itself, or partial sums that are added up later. */
export interface Output {
  readonly matrix: Matrix
  readonly type: ElementType
  readonly lanes: Lanes
  readonly array: string
}

/** The residual, with strides for both of its axes. */
export interface Residual extends Output {
  readonly rowStride: number
  readonly columnStride: number
}

/** A product's operands, bound. */
export interface Operands {
  readonly a: Operand
  readonly b: Operand
  readonly c: Output
  readonly residual?: Residual
}

/** The same numbers with rows and columns swapped. */
const flipped = (matrix: Matrix): Matrix => ({ ...matrix, transposed: !matrix.transposed })

/** The same product as cᵀ = bᵀ·aᵀ. */
export function flippedProduct({ a, b, c, addend, m, n, ...rest }: Matmul): Matmul {
  const sum = addend && { residual: flipped(addend) }
  return { ...rest, m: n, n: m, a: flipped(b), b: flipped(a), c: flipped(c), ...sum }
}

/** The distances between neighbouring rows and columns. */
export const stridesOf = ({ rowStride, transposed }: Matrix): [row: number, column: number] =>
  transposed ? [1, rowStride] : [rowStride, 1]

/**
 * How many elements of a matrix [rows, columns] can be taken at once along the axis where they are side by
 * side.
 */
function lanesOf(matrix: Matrix, rows: number, columns: number, batch: number): Lanes {
  const { transposed, offset, rowStride, batchStride } = matrix
  const [lines, width] = transposed ? [columns, rows] : [rows, columns]
  const fits = (lanes: number) =>
    [width, offset, lines > 1 ? rowStride : 0, batch > 1 ? batchStride : 0].every(
      number => number % lanes === 0,
    )
  return fits(4) ? 4 : fits(2) ? 2 : 1
}

/**
 * Binds c, which must not be transposed, and the residual. single: both by single elements. When they share
 * memory they are seen in the same way.
 */
export function bindResult(
  { batch, m, n, c, addend }: Matmul,
  bindings: Bindings,
  { single = false }: { single?: boolean } = {},
): { c: Output; residual?: Residual } {
  const [rowStride, columnStride] = addend ? stridesOf(addend) : [0, 0]
  // Sums come in fours, or else are written one by one.
  const allows = (matrix: Matrix) => !single && !matrix.transposed && lanesOf(matrix, m, n, batch) === 4
  const shares = addend?.buffer.allocation === c.buffer.allocation
  const residualFits = addend !== undefined && allows(addend)
  const cLanes = allows(c) && (residualFits || !shares) ? 4 : 1
  const residualLanes = residualFits && (cLanes === 4 || !shares) ? 4 : 1
  const bound = (matrix: Matrix, lanes: Lanes, writes: boolean) => ({
    matrix,
    type: bindings.type(matrix.buffer),
    lanes,
    array: bindings.name(matrix.buffer, { lanes, writes }),
  })
  return {
    c: bound(c, cLanes, true),
    ...(addend && { residual: { ...bound(addend, residualLanes, false), rowStride, columnStride } }),
  }
}

/**
 * Binds what a product reads and writes; c must not be transposed. singleC: c and the residual by single
 * elements. What shares memory with c is seen as c is.
 */
export function bindOperands(
  work: Matmul,
  bindings: Bindings,
  { singleC = false }: { singleC?: boolean } = {},
): Operands {
  const { batch, m, n, k, a, b, c } = work
  const shares = ({ buffer }: Matrix) => buffer.allocation === c.buffer.allocation
  const lanes = { a: lanesOf(a, m, k, batch), b: lanesOf(b, k, n, batch) }
  const single = singleC || (shares(a) && lanes.a < 4) || (shares(b) && lanes.b < 4)
  const result = bindResult(work, bindings, { single })
  const operand = (side: 'a' | 'b'): Operand => {
    const [matrix, extent] = side === 'a' ? [a, m] : [b, n]
    const isAlongK = matrix.transposed === (side === 'b')
    const seen = shares(matrix) ? result.c.lanes : lanes[side]
    return {
      side,
      matrix,
      type: bindings.type(matrix.buffer),
      lanes: seen,
      array: bindings.name(matrix.buffer, { lanes: seen }),
      isAlongK,
      extent,
      depth: k,
      lineStride: (isAlongK ? extent : k) > 1 ? matrix.rowStride : 0,
      batchStride: batch > 1 ? matrix.batchStride : 0,
    }
  }
  return { ...result, a: operand('a'), b: operand('b') }
}

/** WGSL for number · factor, where the factor is known. */
export const times = (text: string, factor: number): string =>
  factor === 0 ? '0u' : factor === 1 ? text : `(${text}) * ${factor}u`

/** WGSL for the sum of some terms, without the zeros. */
export const plus = (...terms: string[]): string => terms.filter(term => term !== '0u').join(' + ') || '0u'

/** WGSL for floats as elements of a type; f16 ends at ±65504. vector: 'vec4' or nothing for one. */
export function converted(text: string, type: ElementType, vector: 'vec4' | '' = ''): string {
  if (type === 'f32') return text
  const clamped = vector
    ? `clamp(${text}, vec4f(-65504.0), vec4f(65504.0))`
    : `clamp(${text}, -65504.0, 65504.0)`
  return vector ? `vec4<f16>(${clamped})` : `f16(${clamped})`
}

/**
 * WGSL of `fn store(batch: u32, row: u32, column: u32, sums: vec4f)`, which puts four neighbouring sums of a
 * row into c, with the residual added. column is a multiple of 4. What lies outside of c is left out.
 */
export function storeFunction(
  { c, residual }: { c: Output; residual?: Residual },
  { batch, m, n }: { batch: number; m: number; n: number },
  tile: { rows: number; columns: number },
): string {
  const at = ({ offset, batchStride }: Matrix, row: number, column: number, columnText: string) =>
    plus(
      `${offset}u`,
      batch > 1 ? times('batch', batchStride) : '0u',
      m > 1 ? times('row', row) : '0u',
      times(columnText, column),
    )
  const place = (columnText: string) => at(c.matrix, c.matrix.rowStride, 1, columnText)
  const added = (columnText: string) =>
    residual
      ? `f32(${residual.array}[${at(residual.matrix, residual.rowStride, residual.columnStride, columnText)}])`
      : ''
  const rowGuard = m % tile.rows === 0 ? '' : `if (row >= ${m}u) { return; }`
  const columns = [0, 1, 2, 3].map(i => (i === 0 ? 'column' : `column + ${i}u`))
  const body =
    c.lanes === 4
      ? `${n % tile.columns === 0 ? '' : `if (column >= ${n}u) { return; }`}
  ${
    !residual
      ? 'let value = sums;'
      : residual.lanes === 4
        ? `let value = sums + vec4f(${residual.array}[(${at(residual.matrix, residual.rowStride, 1, 'column')}) / 4u]);`
        : `let value = sums + vec4f(${columns.map(added).join(', ')});`
  }
  ${c.array}[(${place('column')}) / 4u] = ${converted('value', c.type, 'vec4')};`
      : columns
          .map(
            (column, i) => `  if (${column} < ${n}u) {
    let value = sums[${i}]${residual ? ` + ${added(column)}` : ''};
    ${c.array}[${place(column)}] = ${converted('value', c.type)};
  }`,
          )
          .join('\n')
  return `fn store(batch: u32, row: u32, column: u32, sums: vec4f) {
  ${rowGuard}
  ${body}
}`
}

/** The types of a product's operands, for a kernel's name. */
export function typeNames({ a, b, c, addend }: Matmul, typeOf: TypeOf): string {
  const [first, second, third, sum] = [a, b, c, addend].map(matrix => matrix && typeOf(matrix.buffer))
  return `${first}·${second}${sum ? `+${sum}` : ''}→${third}`
}
