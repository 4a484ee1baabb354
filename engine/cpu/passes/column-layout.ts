/** Splits the columns of temporary matrices into separate buffers where they are used separately. */
import {
  type Access,
  type Attention,
  type AttentionOperands,
  Buffer,
  type Instruction,
  type Matmul,
  type Matrix,
  type Program,
  type View,
  type Work,
  buffersOf,
} from '../../compiler/program.ts'
import { accessesOf } from '../kernels/rows/operands.ts'

/** An instruction, or one of the parts that an instruction is split into. */
export interface SplitInstruction extends Instruction {
  /** Number of parts of the original instruction. */
  readonly parts: number
  /** The original instruction, if its parts can run at the same time although they write to the same buffer. */
  readonly parallel?: Instruction
}

/** The fewest elements of a matrix to split. Smaller ones stay in the L2 cache anyway. */
const leastSize = 2 ** 16

/** Neighbouring groups with fewer columns than this are merged, since their rows would be parts of cache lines. */
const leastWidth = 64

/** How many times as many tiles the parts may have as the whole matrix. */
const mostTiles = 1.05

/**
 * Stores columns of a temporary matrix in separate buffers if they are used separately, such as the parts that a
 * projection is split into, or the parts of a concatenated gradient. Then each use reads contiguous memory, which the
 * processor prefetches, and touches no more pages than necessary. Products with the whole matrix become one product per
 * part. Sums over its columns continue from part to part, and stay the same to the last bit.
 * columns: those of a tile. A matrix stays whole if its parts would leave too much of their tiles empty.
 */
export function splitColumns(program: Program, columns: number): SplitInstruction[] {
  const layouts = findLayouts(program, columns)
  return program.instructions.flatMap((instruction, i) => {
    const { work, sharesRowBlocks } = instruction
    const roots = [...instruction.reads, ...instruction.writes].map(({ allocation }) => allocation)
    if (!roots.some(root => layouts.has(root))) return [{ ...instruction, parts: 1 }]
    const works = rewrite(work, layouts)
    const chained = sharesRowBlocks || (program.instructions[i + 1]?.sharesRowBlocks ?? false)
    // Parts of a sum depend on each other.
    const parallel = works.every(
      part => part.kind === 'matmul' && work.kind === 'matmul' && part.k === work.k,
    )
    return works.map((part, index) => ({
      work: part,
      ...buffersOf(part),
      rowBlock: instruction.rowBlock,
      sharesRowBlocks: index === 0 ? sharesRowBlocks : chained,
      parts: works.length,
      ...(instruction.operations && { operations: instruction.operations }),
      ...(parallel && { parallel: instruction }),
    }))
  })
}

/** Columns start to end of a matrix, which have a buffer of their own. */
interface ColumnGroup {
  readonly start: number
  readonly end: number
  readonly buffer: Buffer
}

/** How a matrix is split: its original row stride, and its groups of columns in order. */
interface Layout {
  readonly stride: number
  readonly groups: readonly ColumnGroup[]
}

type Layouts = ReadonlyMap<Buffer, Layout>

/** One use of a buffer, perhaps of some columns of a matrix in it. */
interface Use {
  readonly buffer: Buffer
  /** Whether it uses columns of a matrix: rows at one stride with adjacent columns. If not, only `buffer` has a meaning. */
  readonly byRow: boolean
  readonly offset: number
  readonly width: number
  /** Distance between rows; undefined if there is one row. */
  readonly stride?: number
  /** Whether the use can be split, as that of a product can. */
  readonly divides: boolean
}

function findLayouts({ instructions, inputs, outputs }: Program, columns: number): Layouts {
  const uses = new Map<Buffer, Use[]>()
  // Buffers that are used in any other way, or by the caller, stay whole.
  const whole = new Set(
    [...inputs, ...outputs.map(({ buffer }) => buffer)].map(({ allocation }) => allocation),
  )
  for (const { work } of instructions) {
    for (const use of usesOf(work)) {
      const { allocation } = use.buffer
      if (!use.byRow) whole.add(allocation)
      else {
        const known = uses.get(allocation)
        if (known) known.push(use)
        else uses.set(allocation, [use])
      }
    }
  }
  const layouts = new Map<Buffer, Layout>()
  for (const [root, list] of uses) {
    if (root.variable || whole.has(root) || root.size < leastSize) continue
    const layout = layoutOf(root, list, columns)
    if (layout) layouts.set(root, layout)
  }
  return layouts
}

/** The groups that a matrix's columns fall into, if there are several and all its uses are of columns. */
function layoutOf(root: Buffer, uses: readonly Use[], columns: number): Layout | undefined {
  const stride = uses.find(use => use.stride !== undefined)?.stride
  if (stride === undefined || root.size % stride !== 0) return undefined
  const ranges: { start: number; end: number }[] = []
  for (const use of uses) {
    const start = use.offset % stride
    if ((use.stride ?? stride) !== stride || start + use.width > stride) return undefined
    if (!use.divides) ranges.push({ start, end: start + use.width })
  }
  // Overlapping ranges form one group, and so do the columns between two ranges.
  const merged: { start: number; end: number }[] = []
  for (const { start, end } of ranges.sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1)
    if (last && start < last.end) last.end = Math.max(last.end, end)
    else {
      const from = last?.end ?? 0
      if (start > from) merged.push({ start: from, end: start })
      merged.push({ start, end })
    }
  }
  const end = merged.at(-1)?.end ?? 0
  if (end < stride) merged.push({ start: end, end: stride })
  const groups: { start: number; end: number }[] = []
  for (const { start, end } of merged) {
    const last = groups.at(-1)
    if (last && last.end - last.start < leastWidth && end - start < leastWidth) last.end = end
    else groups.push({ start, end })
  }
  const tiles = groups.reduce((sum, { start, end }) => sum + Math.ceil((end - start) / columns), 0)
  if (groups.length < 2 || tiles > mostTiles * Math.ceil(stride / columns)) return undefined
  const rows = root.size / stride
  return {
    stride,
    groups: groups.map(({ start, end }) => ({
      start,
      end,
      buffer: new Buffer(rows * (end - start), root.dtype),
    })),
  }
}

/** All uses of memory by a piece of work. */
function usesOf(work: Work): Use[] {
  switch (work.kind) {
    case 'rows':
      return [
        ...accessesOf(work).flatMap(access => {
          const { buffer, offset, rowDims, columnStride, gather } = access
          const byRow = !gather && rowDims.length <= 1 && columnStride <= 1
          const width = columnStride === 0 ? 1 : work.columns
          return buffer ? [{ buffer, byRow, offset, width, stride: rowDims[0]?.[1], divides: false }] : []
        }),
        ...work.columnSums.map(({ buffer }) => notByRow(buffer)),
      ]
    case 'matmul': {
      const { batch, m, n, k, a, b, c, addend } = work
      const use = ({ buffer, offset, rowStride, transposed }: Matrix, rows: number, columns: number) => {
        const [down, across] = transposed ? [columns, rows] : [rows, columns]
        const stride = down > 1 ? { stride: rowStride } : {}
        return { buffer, byRow: batch === 1, offset, width: across, ...stride, divides: true }
      }
      return [use(a, m, k), use(b, k, n), use(c, m, n), ...(addend ? [use(addend, m, n)] : [])]
    }
    case 'attention':
    case 'attentionGradient':
      return attentionUses(work)
    case 'scatterAdd': {
      const { values, indices, base, out } = work
      return [values, indices, out, ...(base ? [base] : [])].map(({ buffer }) => notByRow(buffer))
    }
    default:
      return work satisfies never
  }
}

const notByRow = (buffer: Buffer): Use => ({ buffer, byRow: false, offset: 0, width: 0, divides: false })

function attentionUses({ kind, operands, results }: Attention): Use[] {
  const sequences = [operands.query, operands.key, operands.value]
  const others = [operands.slope]
  if (kind === 'attention') {
    sequences.push(results.out)
    others.push(results.logSumExp)
  } else {
    sequences.push(operands.out, operands.outGradient, results.query, results.key, results.value)
    others.push(operands.logSumExp, results.slope)
  }
  return [
    ...sequences.map(({ buffer, offset, shape, strides }) => {
      const byRow = strides[2] === 1 && (shape[0] === 1 || strides[0] === strides[1] * shape[1])
      return { buffer, byRow, offset, width: shape[2], stride: strides[1], divides: false }
    }),
    ...others.flatMap(view => (view ? [notByRow(view.buffer)] : [])),
  ]
}

/** Rewrites a piece of work for the new buffers. A product over several groups becomes several products. */
function rewrite(work: Work, layouts: Layouts): Work[] {
  switch (work.kind) {
    case 'rows': {
      const moved = (access: Access): Access => {
        if (!access.buffer) return access
        const { stride, ...place } = placeOf(access.buffer, access.offset, layouts)
        return stride
          ? { ...access, ...place, rowDims: access.rowDims.map(([extent]) => [extent, stride]) }
          : access
      }
      const values = work.values.map(value =>
        value.operation.kind === 'load'
          ? { ...value, operation: { ...value.operation, access: moved(value.operation.access) } }
          : value,
      )
      const stores = work.stores.map(store => ({ ...store, access: moved(store.access) }))
      return [{ ...work, values, stores }]
    }
    case 'matmul':
      return rewriteMatmul(work, layouts)
    case 'attention':
    case 'attentionGradient':
      return [rewriteAttention(work, layouts)]
    case 'scatterAdd':
      return [work]
    default:
      return work satisfies never
  }
}

function rewriteAttention(work: Attention, layouts: Layouts): Attention {
  const moved = (view: View): View => {
    const { stride, ...place } = placeOf(view.buffer, view.offset, layouts)
    return stride ? { ...view, ...place, strides: [stride * view.shape[1], stride, 1] } : view
  }
  const movedAll = (views: AttentionOperands): AttentionOperands => ({
    ...views,
    query: moved(views.query),
    key: moved(views.key),
    value: moved(views.value),
  })
  const { kind, operands, results } = work
  if (kind === 'attention')
    return { ...work, operands: movedAll(operands), results: { ...results, out: moved(results.out) } }
  const { logSumExp } = operands
  return {
    ...work,
    operands: {
      ...movedAll(operands),
      out: moved(operands.out),
      logSumExp,
      outGradient: moved(operands.outGradient),
    },
    results: movedAll(results),
  }
}

/** One product for each combination of groups in a product's operands and result. */
function rewriteMatmul(work: Matmul, layouts: Layouts): Matmul[] {
  const { m, n, k, a, b, c, addend } = work
  const cuts = { m: new Set([0, m]), n: new Set([0, n]), k: new Set([0, k]) }
  const cut = ({ buffer, offset }: Matrix, across: 'm' | 'n' | 'k', width: number) => {
    const layout = layouts.get(buffer.allocation)
    for (const { start } of layout?.groups ?? []) {
      const at = start - (offset % (layout?.stride ?? 1))
      if (at > 0 && at < width) cuts[across].add(at)
    }
  }
  if (a.transposed) cut(a, 'm', m)
  else cut(a, 'k', k)
  if (b.transposed) cut(b, 'k', k)
  else cut(b, 'n', n)
  cut(c, 'n', n)
  if (addend) cut(addend, 'n', n)

  const part = (matrix: Matrix, row: number, column: number): Matrix => {
    const [down, across] = matrix.transposed ? [column, row] : [row, column]
    const offset = matrix.offset + down * matrix.rowStride + across
    const { stride, ...place } = placeOf(matrix.buffer, offset, layouts)
    return { ...matrix, ...place, ...(stride && { rowStride: stride }) }
  }
  const ranges = (cuts: Set<number>) => {
    const sorted = [...cuts].sort((x, y) => x - y)
    return sorted.slice(1).map((end, i) => ({ start: sorted[i], extent: end - sorted[i] }))
  }
  return ranges(cuts.m).flatMap(rows =>
    ranges(cuts.n).flatMap(columns =>
      ranges(cuts.k).map((sums, i) => {
        const result = part(c, rows.start, columns.start)
        const base = i > 0 ? result : addend && part(addend, rows.start, columns.start)
        return {
          ...work,
          m: rows.extent,
          n: columns.extent,
          k: sums.extent,
          a: part(a, rows.start, sums.start),
          b: part(b, sums.start, columns.start),
          c: result,
          ...(base && { addend: base }),
        }
      }),
    ),
  )
}

/** Where an element of a buffer is after splitting, and the row stride of its group if it is in one. */
function placeOf(
  buffer: Buffer,
  offset: number,
  layouts: Layouts,
): { buffer: Buffer; offset: number; stride?: number } {
  const layout = layouts.get(buffer.allocation)
  if (!layout) return { buffer, offset }
  const column = offset % layout.stride
  const row = (offset - column) / layout.stride
  const group = layout.groups.find(({ end }) => column < end)
  if (!group) throw new Error(`no group of columns contains column ${column}`)
  const stride = group.end - group.start
  return { buffer: group.buffer, offset: row * stride + column - group.start, stride }
}
