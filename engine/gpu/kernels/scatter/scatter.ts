// Kernels that sum rows by index: scatterAdd, the gradient of an embedding.
import { costOf } from '../../../compiler/cost.ts'
import { Buffer, type ScatterAdd, type View } from '../../../compiler/program.ts'
import { Bindings } from '../bindings.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { radixSort } from './sort.ts'

/** Positions that one thread sums one after the other. A row that occurs more often is summed in several pieces. */
const chunkLength = 32
/** Positions whose rows of values are loaded at the same time. */
const inFlight = 8

/** The sorted indices of a program's scatters. Scatters with the same indices share them. */
export class ScatterOrders {
  private known: { indices: View; rows: number; order: Buffer }[] = []

  /** Pairs of row and position, and the kernels that make them if no earlier ones do. */
  of({ indices, rows, count }: ScatterAdd, typeOf: TypeOf, target: Target): Ordered {
    const known = this.known.find(
      other =>
        other.rows === rows &&
        other.indices.buffer.allocation === indices.buffer.allocation &&
        other.indices.offset === indices.offset &&
        other.indices.shape[0] === indices.shape[0],
    )
    if (known) return { order: known.order, dispatches: [] }
    const { sorted: order, dispatches } = radixSort(
      { keys: indices.buffer, offset: indices.offset, count, limit: rows },
      typeOf,
      target,
    )
    this.known.push({ indices, rows, order })
    return { order, dispatches }
  }

  /** Forgets the orders of indices that an instruction has written. */
  forget(written: readonly Buffer[]): void {
    const allocations = new Set(written.map(({ allocation }) => allocation))
    this.known = this.known.filter(({ indices }) => !allocations.has(indices.buffer.allocation))
  }
}

interface Ordered {
  readonly order: Buffer
  readonly dispatches: readonly Dispatch[]
}

/**
 * Sums rows of values into rows of out by index. The positions are sorted by their row and cut into chunks of equal length.
 * Each chunk sums its runs, which are neighbouring positions of one row, in order. A run within a chunk goes straight to
 * out, and a second kernel adds the pieces of runs that cross chunks. Where out is base itself, only the rows that occur are
 * touched. Indices out of range are clamped.
 */
export function scatterDispatches(
  work: ScatterAdd,
  typeOf: TypeOf,
  target: Target,
  orders: ScatterOrders,
): Dispatch[] {
  const { rows, columns, count, values, base, out } = work
  const isInPlace =
    base !== undefined &&
    base.buffer.allocation === out.buffer.allocation &&
    base.offset === out.offset &&
    base.strides[0] === out.strides[0]
  const fill = isInPlace ? [] : [fillDispatch(work, typeOf, target)]
  const { order, dispatches } = orders.of(work, typeOf, target)
  const chunks = Math.ceil(count / chunkLength)
  const operands = [values, out, ...(base ? [base] : [])]
  const lanes = operands.every(view => isInVectors(view, columns)) ? 4 : 1
  const width = columns / lanes
  /** Two rows for each chunk: the piece of a run that began before it, and of one that continues after it. */
  const pieces = chunks > 1 ? new Buffer(2 * chunks * columns, 'float32') : undefined
  const plan: ScatterPlan = { work, order, pieces, chunks, lanes, width, typeOf, target }
  const { bytes } = costOf(work, buffer => bytesOf[typeOf(buffer)])
  const rest = bytes - fill.reduce((sum, dispatch) => sum + dispatch.bytes, 0)
  const name = `scatter ${count}×${columns} ${base ? 'onto' : '→'} ${rows}×${columns}`
  return [
    ...fill,
    ...dispatches,
    sumDispatch(plan, name, rest),
    ...(pieces ? [joinDispatch(plan, `${name} across chunks`)] : []),
  ]
}

interface ScatterPlan {
  readonly work: ScatterAdd
  readonly order: Buffer
  readonly pieces: Buffer | undefined
  readonly chunks: number
  /** Columns in a vector, and vectors in a row. */
  readonly lanes: 1 | 4
  readonly width: number
  readonly typeOf: TypeOf
  readonly target: Target
}

/** Whether each row of a matrix is made of whole vectors of 4. */
const isInVectors = ({ offset, strides }: View, columns: number): boolean =>
  columns % 4 === 0 && offset % 4 === 0 && strides[0] % 4 === 0

/** Copies base to out, or fills out with zeros. */
function fillDispatch({ rows, columns, base, out }: ScatterAdd, typeOf: TypeOf, target: Target): Dispatch {
  const views = [out, ...(base ? [base] : [])]
  // A matrix without gaps is one long row.
  const isWhole = views.every(({ strides }) => strides[0] === columns)
  const length = isWhole ? rows * columns : columns
  const lanes = views.every(
    ({ offset, strides }) => length % 4 === 0 && offset % 4 === 0 && (isWhole || strides[0] % 4 === 0),
  )
    ? 4
    : 1
  const total = (rows * columns) / lanes
  const size = 256
  const each = 4
  const workgroups = Math.ceil(total / (size * each))
  const bindings = new Bindings(typeOf)
  const place = ({ offset, strides }: View) =>
    isWhole
      ? `${offset / lanes}u + i`
      : `${offset / lanes}u + i / ${columns / lanes}u * ${strides[0] / lanes}u + i % ${columns / lanes}u`
  const into = bindings.name(out.buffer, { writes: true, lanes })
  const zero = lanes === 4 ? 'vec4f()' : '0f'
  const value = base ? `${bindings.name(base.buffer, { lanes })}[${place(base)}]` : zero
  const body = `
  for (var step = 0u; step < ${each}u; step++) {
    let i = (group * ${each}u + step) * ${size}u + thread;
    if (i < ${total}u) { ${into}[${place(out)}] = ${value}; }
  }`
  const code = shader({ bindings, target, size, workgroups, body })
  const name = `${base ? 'copy' : 'zeros'} ${rows}×${columns}`
  const bytes = rows * columns * bytesOf.f32 * views.length
  const { buffers, writes } = bindings
  return { kernel: { name, code }, buffers, writes, workgroups, flops: 0, bytes }
}

/** The bindings and addresses of the kernels that sum. */
function names(
  { work, order, pieces, lanes, width, typeOf }: ScatterPlan,
  { writesPieces }: { writesPieces: boolean },
) {
  const { base, out } = work
  const bindings = new Bindings(typeOf)
  const ordered = bindings.name(order, { lanes: 2 })
  const result = bindings.name(out.buffer, { writes: true, lanes })
  const place = `${out.offset / lanes}u + u32(row) * ${out.strides[0] / lanes}u + column`
  return {
    bindings,
    ordered,
    pieces: pieces ? bindings.name(pieces, { writes: writesPieces, lanes }) : '',
    vector: lanes === 4 ? 'vec4f' : 'f32',
    /** A statement that adds to a row of out. Zeros need not be read. */
    add: `${result}[${place}] ${base ? '+=' : '='} sum;`,
    /** The index of a column of a piece. */
    piece: (index: string) => `(${index}) * ${width}u + column`,
  }
}

/** Sums the runs of each chunk. Each thread has one column of vectors. */
function sumDispatch(plan: ScatterPlan, name: string, bytes: number): Dispatch {
  const { work, chunks, lanes, width, target } = plan
  const { count, values } = work
  const { bindings, ordered, pieces, vector, add, piece } = names(plan, { writesPieces: true })
  const numbers = bindings.name(values.buffer, { lanes })
  const slices = Math.ceil(width / 256)
  const across = Math.ceil(width / slices)
  // Small work uses smaller workgroups, so that more processors share it.
  const together = Math.max(1, Math.floor((chunks * width < 2 ** 16 ? 64 : 256) / across))
  const workgroups = Math.ceil(chunks / together) * slices
  const size = across * together
  const steps = Array.from({ length: inFlight }, (_, i) => i)
  const isEven = count % inFlight === 0
  const at = (i: number) => (isEven ? `position + ${i}u` : `min(position + ${i}u, ${count - 1}u)`)
  const declarations = `
/** A run of one row that begins in this chunk and ends here goes to out, any other is a piece. */
fn finish(row: i32, column: u32, sum: ${vector}, chunk: u32, begins: bool, ends: bool) {
  if (begins && ends) { ${add} }${pieces && `\n  else { ${pieces}[${piece('2u * chunk + select(0u, 1u, begins)')}] = sum; }`}
}`
  const body = `
  let column = group % ${slices}u * ${across}u + thread % ${across}u;
  let chunk = group / ${slices}u * ${together}u + thread / ${across}u;
  if (column >= ${width}u || chunk >= ${chunks}u) { return; }
  let start = chunk * ${chunkLength}u;
  let end = min(start + ${chunkLength}u, ${count}u);
  var row = ${ordered}[start].x;
  var begins = start == 0u || ${ordered}[max(start, 1u) - 1u].x != row;
  var sum = ${vector}();
  for (var position = start; position < end; position += ${inFlight}u) {
${steps.map(i => `    let pair${i} = ${ordered}[${at(i)}];`).join('\n')}
${steps.map(i => `    let term${i} = ${numbers}[${values.offset / lanes}u + u32(pair${i}.y) * ${values.strides[0] / lanes}u + column];`).join('\n')}
${steps
  .map(
    i => `    ${isEven || i === 0 ? '' : `if (position + ${i}u < end) `}{
      if (pair${i}.x != row) {
        finish(row, column, sum, chunk, begins, true);
        row = pair${i}.x;
        begins = true;
        sum = ${vector}();
      }
      sum += term${i};
    }`,
  )
  .join('\n')}
  }
  let ends = end == ${count}u || ${ordered}[min(end, ${count - 1}u)].x != row;
  finish(row, column, sum, chunk, begins, ends);`
  const code = shader({ bindings, target, size, workgroups, declarations, body })
  const { buffers, writes } = bindings
  return { kernel: { name, code }, buffers, writes, workgroups, flops: 0, bytes }
}

/** Adds the pieces of each run that crosses the end of a chunk. A workgroup has the runs that begin in one chunk. */
function joinDispatch(plan: ScatterPlan, name: string): Dispatch {
  const { chunks, width, target } = plan
  const { bindings, ordered, pieces, vector, add, piece } = names(plan, { writesPieces: false })
  const across = Math.min(width, 32)
  const slices = Math.ceil(width / across)
  const parts = Math.min(32, Math.floor(256 / across))
  const size = across * parts
  const workgroups = (chunks - 1) * slices
  const declarations = `
var<workgroup> sums: array<${vector}, ${size}>;

fn first_row(chunk: u32) -> i32 { return ${ordered}[chunk * ${chunkLength}u].x; }`
  const body = `
  let chunk = group / ${slices}u;
  let row = ${ordered}[chunk * ${chunkLength}u + ${chunkLength - 1}u].x;
  if (first_row(chunk + 1u) != row) { return; }
  if (chunk > 0u && first_row(chunk) == row && ${ordered}[chunk * ${chunkLength}u - 1u].x == row) { return; }
  // The last chunk that has a piece of it.
  var last = chunk + 1u;
  var stride = 1u;
  while (last + stride < ${chunks}u && first_row(last + stride) == row) {
    last += stride;
    stride *= 2u;
  }
  for (; stride > 0u; stride /= 2u) {
    if (last + stride < ${chunks}u && first_row(last + stride) == row) { last += stride; }
  }
  let column = group % ${slices}u * ${across}u + thread % ${across}u;
  let part = thread / ${across}u;
  var sum = ${vector}();
  if (column < ${width}u) {
    for (var other = chunk + 1u + part; other <= last; other += ${parts}u) { sum += ${pieces}[${piece('2u * other')}]; }
  }
  sums[thread] = sum;
  workgroupBarrier();
  if (part == 0u && column < ${width}u) {
    sum = ${pieces}[${piece('2u * chunk + 1u')}];
    for (var other = 0u; other < min(${parts}u, last - chunk); other++) { sum += sums[other * ${across}u + thread]; }
    ${add}
  }`
  const code = shader({ bindings, target, size, workgroups, declarations, body })
  const { buffers, writes } = bindings
  // The number of pieces depends on the indices; what counts here is the search for them.
  const bytes = 24 * (chunks - 1)
  return { kernel: { name, code }, buffers, writes, workgroups, flops: 0, bytes }
}
