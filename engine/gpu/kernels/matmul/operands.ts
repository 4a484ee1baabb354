// The operands of a matrix product, and the code that stores its result.
import type { Matmul, Matrix } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'
import type { ElementType, TypeOf } from '../kernel.ts'

/** The number of elements that a kernel reads or writes at once. */
export type Lanes = 1 | 2 | 4

/** a or b of a product, as a kernel reads it: lines of elements side by side, either along k or across it. */
export interface Factor {
  readonly side: 'a' | 'b'
  readonly matrix: Matrix
  readonly type: ElementType
  readonly lanes: Lanes
  /** Whether elements with neighbouring k lie side by side. Otherwise neighbouring rows of a, or columns of b, do. */
  readonly isAlongK: boolean
  /** Rows of a, or columns of b. */
  readonly extent: number
  readonly depth: number
  readonly lineStride: number
  readonly batchStride: number
  /** The name of its array. */
  readonly array: string
}

/** The destination of sums: c itself, or partial sums that another kernel adds up. */
export interface Destination {
  readonly matrix: Matrix
  readonly type: ElementType
  readonly lanes: Lanes
  readonly array: string
}

/** The matrix that is added to the product, with strides for both of its axes. */
export interface Addend extends Destination {
  readonly rowStride: number
  readonly columnStride: number
}

/** A product's operands with their bindings. */
export interface Operands {
  readonly a: Factor
  readonly b: Factor
  readonly c: Destination
  readonly addend?: Addend
}

/** The transposed matrix, in the same memory. */
const flipped = (matrix: Matrix): Matrix => ({ ...matrix, transposed: !matrix.transposed })

/** The same product, written as cᵀ = bᵀ·aᵀ. */
export function flippedProduct({ a, b, c, addend, m, n, ...rest }: Matmul): Matmul {
  const sum = addend && flipped(addend)
  return { ...rest, m: n, n: m, a: flipped(b), b: flipped(a), c: flipped(c), ...(sum && { addend: sum }) }
}

/** The distances between neighbouring rows and columns. */
export const stridesOf = ({ rowStride, transposed }: Matrix): [row: number, column: number] =>
  transposed ? [1, rowStride] : [rowStride, 1]

/** How many elements of a matrix [rows, columns] can be read at once, along the axis where they lie side by side. */
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
 * Binds c, which must not be transposed, and the addend. single: both by single elements. If they share memory, both have
 * the same lanes.
 */
export function bindResult(
  { batch, m, n, c, addend }: Matmul,
  bindings: Bindings,
  { single = false }: { single?: boolean } = {},
): { c: Destination; addend?: Addend } {
  const [rowStride, columnStride] = addend ? stridesOf(addend) : [0, 0]
  // Sums are written in fours, or one by one.
  const allows = (matrix: Matrix) => !single && !matrix.transposed && lanesOf(matrix, m, n, batch) === 4
  const shares = addend?.buffer.allocation === c.buffer.allocation
  const addendFits = addend !== undefined && allows(addend)
  const cLanes = allows(c) && (addendFits || !shares) ? 4 : 1
  const addendLanes = addendFits && (cLanes === 4 || !shares) ? 4 : 1
  const bound = (matrix: Matrix, lanes: Lanes, writes: boolean) => ({
    matrix,
    type: bindings.type(matrix.buffer),
    lanes,
    array: bindings.name(matrix.buffer, { lanes, writes }),
  })
  return {
    c: bound(c, cLanes, true),
    ...(addend && { addend: { ...bound(addend, addendLanes, false), rowStride, columnStride } }),
  }
}

/**
 * Binds a product's operands. c must not be transposed. singleC: c and the addend by single elements. Operands that share
 * memory with c have the same lanes as c.
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
  const operand = (side: 'a' | 'b'): Factor => {
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

/** WGSL for text · factor. */
export const times = (text: string, factor: number): string =>
  factor === 0 ? '0u' : factor === 1 ? text : `(${text}) * ${factor}u`

/** WGSL for the sum of terms, without zeros. */
export const plus = (...terms: string[]): string => terms.filter(term => term !== '0u').join(' + ') || '0u'

/** WGSL for floats as elements of a type. f16 is clamped to ±65504. vector: '' for a scalar. */
export function converted(text: string, type: ElementType, vector: 'vec4' | '' = ''): string {
  if (type === 'f32') return text
  const clamped = vector
    ? `clamp(${text}, vec4f(-65504.0), vec4f(65504.0))`
    : `clamp(${text}, -65504.0, 65504.0)`
  return vector ? `vec4<f16>(${clamped})` : `f16(${clamped})`
}

/**
 * WGSL of `fn store(batch: u32, row: u32, column: u32, sums: vec4f)`, which adds the addend to four neighbouring sums of a
 * row and stores those that lie within c. column is a multiple of 4.
 */
export function storeFunction(
  { c, addend }: { c: Destination; addend?: Addend },
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
    addend
      ? `f32(${addend.array}[${at(addend.matrix, addend.rowStride, addend.columnStride, columnText)}])`
      : ''
  const rowGuard = m % tile.rows === 0 ? '' : `if (row >= ${m}u) { return; }`
  const columns = [0, 1, 2, 3].map(i => (i === 0 ? 'column' : `column + ${i}u`))
  const body =
    c.lanes === 4
      ? `${n % tile.columns === 0 ? '' : `if (column >= ${n}u) { return; }`}
  ${
    !addend
      ? 'let value = sums;'
      : addend.lanes === 4
        ? `let value = sums + vec4f(${addend.array}[(${at(addend.matrix, addend.rowStride, 1, 'column')}) / 4u]);`
        : `let value = sums + vec4f(${columns.map(added).join(', ')});`
  }
  ${c.array}[(${place('column')}) / 4u] = ${converted('value', c.type, 'vec4')};`
      : columns
          .map(
            (column, i) => `  if (${column} < ${n}u) {
    let value = sums[${i}]${addend ? ` + ${added(column)}` : ''};
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
