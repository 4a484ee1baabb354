import {
  type Access,
  type Attention,
  Buffer,
  type Instruction,
  type Matmul,
  type Matrix,
  type Program,
  type RowProgram,
  type View,
  type Work,
  buffersOf,
} from '../../compiler/program.ts'

/** An instruction, or a part of one. */
export interface SplitInstruction extends Instruction {
  /** How many parts there are. */
  readonly parts: number
  /** The instruction whose parts can run at the same time, though they write to the same buffer. */
  readonly parallel?: Instruction
}

/** Elements of a matrix that is worth it: less than this stays in the L2 cache anyway. */
const leastSize = 2 ** 16

/** Neighbouring columns that are fewer than this stay together: their rows would be parts of cache lines. */
const leastWidth = 64

/** How many times the tiles of the whole those of its parts may be. */
const mostTiles = 1.05

/**
 * Stores the columns of a temporary matrix apart that are used apart, such as the parts that a projection is split
 * into, or that gradients are joined from. Then each use goes through memory in one line, where the processor fetches
 * ahead, and touches no more pages than it must. Products with the whole matrix become one for each of its parts:
 * sums over its columns go on from part to part, and are the same to the last bit.
 * columns: of a tile. Where whole tiles would be filled too badly, a matrix stays in one.
 */
export function splitColumns(program: Program, columns: number): SplitInstruction[] {
  const layouts = findLayouts(program, columns)
  return program.instructions.flatMap((instruction, i) => {
    const { work, sharesRowBlocks } = instruction
    const roots = [...instruction.reads, ...instruction.writes].map(({ allocation }) => allocation)
    if (!roots.some(root => layouts.has(root))) return [{ ...instruction, parts: 1 }]
    const works = rewrite(work, layouts)
    const chained = sharesRowBlocks || (program.instructions[i + 1]?.sharesRowBlocks ?? false)
    // Parts of a sum go on where others ended.
    const parallel = works.every(
      part => part.kind === 'matmul' && work.kind === 'matmul' && part.k === work.k,
    )
    return works.map((part, index) => ({
      work: part,
      ...buffersOf(part),
      sharesRowBlocks: index === 0 ? sharesRowBlocks : chained,
      parts: works.length,
      ...(instruction.operations && { operations: instruction.operations }),
      ...(parallel && { parallel: instruction }),
    }))
  })
}

/** Columns start to end of a matrix, in a buffer of their own. */
interface Group {
  readonly start: number
  readonly end: number
  readonly buffer: Buffer
}

/** How a matrix is stored: what its row stride was, and the groups of its columns in their order. */
interface Layout {
  readonly stride: number
  readonly groups: readonly Group[]
}

type Layouts = ReadonlyMap<Buffer, Layout>

/** Memory in use that may be columns of a matrix. */
interface Use {
  readonly buffer: Buffer
  /** Whether it is: rows at one stride, the columns of each beside each other. Else only `buffer` means anything. */
  readonly byRow: boolean
  readonly offset: number
  readonly width: number
  /** From row to row; undefined if there is one. */
  readonly stride?: number
  /** Whether the use can be taken apart: that of a product. */
  readonly divides: boolean
}

function findLayouts({ instructions, inputs, outputs }: Program, columns: number): Layouts {
  const uses = new Map<Buffer, Use[]>()
  // What is used in any other way, or by the caller, stays as it is.
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

/** The groups that a matrix's columns fall into, if they are several, and all of its uses are of rows. */
function layoutOf(root: Buffer, uses: readonly Use[], columns: number): Layout | undefined {
  const stride = uses.find(use => use.stride !== undefined)?.stride
  if (stride === undefined || root.size % stride !== 0) return undefined
  const ranges: { start: number; end: number }[] = []
  for (const use of uses) {
    const start = use.offset % stride
    if ((use.stride ?? stride) !== stride || start + use.width > stride) return undefined
    if (!use.divides) ranges.push({ start, end: start + use.width })
  }
  // What overlaps is one group, and so is what lies between two.
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

/** All memory that a piece of work uses. */
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
      return [...work.operands, ...work.results].map(view => {
        if (!isSequences(view, work)) return notByRow(view.buffer)
        const { buffer, offset, shape, strides } = view
        const byRow = strides[2] === 1 && (shape[0] === 1 || strides[0] === strides[1] * shape[1])
        return { buffer, byRow, offset, width: shape[2], stride: strides[1], divides: false }
      })
    case 'scatterAdd': {
      const { values, indices, base, out } = work
      return [values, indices, out, ...(base ? [base] : [])].map(({ buffer }) => notByRow(buffer))
    }
  }
}

const notByRow = (buffer: Buffer): Use => ({ buffer, byRow: false, offset: 0, width: 0, divides: false })

function accessesOf({ values, stores }: RowProgram): Access[] {
  const loads = values.flatMap(({ operation }) => (operation.kind === 'load' ? [operation.access] : []))
  const indices = loads.flatMap(({ gather }) => (gather ? [gather.indices] : []))
  return [...loads, ...indices, ...stores.map(({ access }) => access)]
}

/** Whether an operand or a result of an attention is [batch, length, width]: not the slope, nor the sums' logarithms. */
function isSequences(view: View, { operands, results, slope, kind }: Attention): boolean {
  const out = slope ? 4 : 3
  const [given, made] =
    kind === 'attention'
      ? [[0, 1, 2], [0]]
      : [
          [0, 1, 2, out, out + 2],
          [0, 1, 2],
        ]
  return given.some(i => operands[i] === view) || made.some(i => results[i] === view)
}

/** A piece of work over the new buffers: several products where one has more than a group. */
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
    case 'attentionGradient': {
      const moved = (view: View): View => {
        const { stride, ...place } = placeOf(view.buffer, view.offset, layouts)
        return stride ? { ...view, ...place, strides: [stride * view.shape[1], stride, 1] } : view
      }
      return [{ ...work, operands: work.operands.map(moved), results: work.results.map(moved) }]
    }
    case 'scatterAdd':
      return [work]
  }
}

/** The products of the groups that a product's operands and its result fall into. */
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

/** Where an element of a buffer is now, and the row stride of its group if there is one. */
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
  if (!group) throw new Error(`no group of columns has column ${column}`)
  const stride = group.end - group.start
  return { buffer: group.buffer, offset: row * stride + column - group.start, stride }
}
