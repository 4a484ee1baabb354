import type { BinaryName, UnaryName } from '../../graph/operations.ts'
import { type Access, Buffer, type RowProgram, type RowValue } from '../../compiler/program.ts'
import { extentOf, isReduction, passesOf } from '../../compiler/row-values.ts'

const cheapNames: ReadonlySet<string> = new Set<UnaryName | BinaryName>([
  'add',
  'subtract',
  'multiply',
  'negate',
  'equal',
  'less',
  'lessEqual',
  'and',
  'xor',
  'toFloat',
  'toInt',
])

/** Whether each value is had for every element without memory and with next to no work: not worth keeping. */
export function cheapOf(values: readonly RowValue[]): boolean[] {
  const cheap: boolean[] = []
  for (const { operation, inputs, extent } of values) {
    const isLight =
      operation.kind === 'load'
        ? !operation.access.buffer && !operation.access.gather
        : operation.kind === 'where' || ('name' in operation && cheapNames.has(operation.name))
    const fromCheap = inputs.every(input => values[input].extent !== 'element' || cheap[input])
    cheap.push(extent === 'element' && isLight && fromCheap)
  }
  return cheap
}

/** A row program under construction: values are copied into it from another one. */
export class RowBuilder {
  readonly values: RowValue[] = []
  private readonly copied = new Map<number, number>()
  private readonly from: readonly RowValue[]

  constructor(from: readonly RowValue[]) {
    this.from = from
  }

  /** Adds a value; its extent follows from its inputs' or from what it loads. */
  add(value: Omit<RowValue, 'extent'>): number {
    this.values.push({ ...value, extent: extentOf(value, this.values) })
    return this.values.length - 1
  }

  load(access: Access, dtype: RowValue['dtype']): number {
    return this.add({ operation: { kind: 'load', access }, inputs: [], dtype })
  }

  /** The number here of a value of the other program, which is added with what it depends on. replace: what to add instead. */
  copy(
    index: number,
    replace: (value: RowValue, index: number) => number | undefined = () => undefined,
  ): number {
    const known = this.copied.get(index)
    if (known !== undefined) return known
    const value = this.from[index]
    const number =
      replace(value, index) ??
      this.add({ ...value, inputs: value.inputs.map(input => this.copy(input, replace)) })
    this.copied.set(index, number)
    return number
  }
}

/** The same program, as flat as it can be: without what it needs not compute, and as one long row if its rows lie so. */
export function simplify(work: RowProgram): RowProgram {
  const builder = new RowBuilder(work.values)
  const replace = (value: RowValue): number | undefined => {
    const { operation, inputs } = value
    if (operation.kind !== 'reduce' || work.values[inputs[0]].extent === 'element') return undefined
    // One value stands for the whole row.
    const input = builder.copy(inputs[0], replace)
    if (operation.name === 'max') return input
    const columns = builder.add({
      operation: { kind: 'constant', value: work.columns },
      inputs: [],
      dtype: 'float32',
    })
    return builder.add({
      operation: { kind: 'binary', name: 'multiply' },
      inputs: [input, columns],
      dtype: 'float32',
    })
  }
  const stores = work.stores.map(({ value, access }) => ({ value: builder.copy(value, replace), access }))
  const columnSums = work.columnSums.map(sum => ({ ...sum, value: builder.copy(sum.value, replace) }))
  const pruned = { ...work, values: builder.values, stores, columnSums }
  const hasColumns =
    pruned.values.some(({ extent }) => extent === 'element') ||
    stores.some(({ access }) => access.columnStride !== 0) ||
    columnSums.some(({ width }) => width > 1)
  return flattened(hasColumns ? pruned : { ...pruned, columns: 1 })
}

/** One row of all elements, where each access goes through them at one stride. */
function flattened(work: RowProgram): RowProgram {
  const { rows, columns, values, stores, columnSums } = work
  const accesses = values.flatMap(({ operation }) => (operation.kind === 'load' ? [operation.access] : []))
  accesses.push(...stores.map(({ access }) => access))
  const isFlat = accesses.every(access => flatStride(access, rows, columns) !== undefined)
  if (rows === 1 || !isFlat || columnSums.length > 0 || values.some(isReduction)) return work
  const flat = (access: Access): Access => ({
    ...access,
    rowDims: [],
    columnStride: flatStride(access, rows, columns) ?? 0,
  })
  const builder = new RowBuilder(values)
  const replace = ({ operation, dtype }: RowValue) =>
    operation.kind === 'load' ? builder.load(flat(operation.access), dtype) : undefined
  const placed = stores.map(({ value, access }) => ({
    value: builder.copy(value, replace),
    access: flat(access),
  }))
  return { ...work, rows: 1, columns: rows * columns, rowBlock: 1, values: builder.values, stores: placed }
}

/** The stride at which an access goes through the elements of all rows, if it has one. */
function flatStride(
  { rowDims, columnStride, gather }: Access,
  rows: number,
  columns: number,
): number | undefined {
  if (gather || rowDims.length > 1) return undefined
  if (rows === 1) return columns === 1 ? 0 : columnStride
  const stride = rowDims.length === 0 ? 0 : rowDims[0][1]
  return columns === 1 || stride === columnStride * columns ? stride / columns : undefined
}

/** Rows so few and so long that they are to be divided. */
const fewRows = 64
const longRow = 16384
const pieceLength = 8192
const mostPieces = 1024

/**
 * A program whose few long rows would leave most of a GPU idle as several: sums over pieces of each row, sums of these,
 * and what is computed from them. Others stay as they are.
 */
export function divideLongRows(work: RowProgram): RowProgram[] {
  const { rows, columns, values, columnSums } = work
  const hasGather = values.some(({ operation }) => operation.kind === 'load' && operation.access.gather)
  const pieces = divisorFor(columns)
  if (
    rows > fewRows ||
    columns < longRow ||
    !pieces ||
    hasGather ||
    columnSums.length > 0 ||
    !values.some(isReduction)
  )
    return [work]
  const passes = passesOf(values)
  const programs: RowProgram[] = []
  /** Where the reductions of the passes so far are. */
  const results = new Map<number, Access>()
  const perRow = (buffer: Buffer, number: number, rows: number): Access => ({
    buffer,
    offset: number * rows,
    rowDims: rows > 1 ? [[rows, 1]] : [],
    columnStride: 0,
  })
  const piece = (access: Access): Access => {
    const { rowDims, columnStride } = access
    const outer = rowDims.length === 0 && rows > 1 ? [[rows, 0] as const] : rowDims
    if (columnStride === 0 && rowDims.length === 0) return access
    return { ...access, rowDims: [...outer, [pieces, columnStride * (columns / pieces)]] }
  }
  const reduceLoaded = (builder: RowBuilder, change: (access: Access) => Access) => {
    return ({ operation, dtype }: RowValue, index: number): number | undefined => {
      const result = results.get(index)
      const access = result ?? (operation.kind === 'load' ? operation.access : undefined)
      return access && builder.load(change(access), dtype)
    }
  }
  for (let pass = 0; pass <= Math.max(...passes); pass++) {
    const reduced = values.flatMap((value, i) => (isReduction(value) && passes[i] === pass ? [i] : []))
    if (reduced.length === 0) continue
    const partial = new Buffer(reduced.length * rows * pieces, 'float32')
    const whole = new Buffer(reduced.length * rows, 'float32')
    const first = new RowBuilder(values)
    const second = new RowBuilder([])
    const partialStores = reduced.map((index, number) => ({
      value: first.copy(index, reduceLoaded(first, piece)),
      access: perRow(partial, number, rows * pieces),
    }))
    const wholeStores = reduced.map((index, number) => {
      const access: Access = {
        buffer: partial,
        offset: number * rows * pieces,
        rowDims: rows > 1 ? [[rows, pieces]] : [],
        columnStride: 1,
      }
      const { operation, dtype } = values[index]
      return {
        value: second.add({ operation, inputs: [second.load(access, dtype)], dtype }),
        access: perRow(whole, number, rows),
      }
    })
    const block = { kind: 'rows' as const, rowBlock: 1, columnSums: [] }
    programs.push(
      {
        ...block,
        rows: rows * pieces,
        columns: columns / pieces,
        values: first.values,
        stores: partialStores,
      },
      { ...block, rows, columns: pieces, values: second.values, stores: wholeStores },
    )
    reduced.forEach((index, number) => results.set(index, perRow(whole, number, rows)))
  }
  const last = new RowBuilder(values)
  const stores = work.stores.map(({ value, access }) => ({
    value: last.copy(
      value,
      reduceLoaded(last, access => access),
    ),
    access,
  }))
  return [...programs, { ...work, values: last.values, stores }]
}

/** The fewest equal pieces of at most pieceLength columns that a row can be divided into. */
function divisorFor(columns: number): number | undefined {
  const fewest = Math.min(mostPieces, Math.ceil(columns / pieceLength))
  for (let pieces = Math.max(2, fewest); pieces <= mostPieces; pieces++)
    if (columns % pieces === 0) return pieces
  return undefined
}

/** The memory that a row program uses, each piece once. */
export function rootsOf({
  values,
  stores,
  columnSums,
}: Omit<RowProgram, 'kind' | 'rows' | 'columns' | 'rowBlock'>): Set<Buffer> {
  const roots = new Set<Buffer>()
  const note = (buffer: Buffer | undefined) => buffer && roots.add(buffer.allocation)
  for (const { operation } of values) {
    if (operation.kind !== 'load') continue
    note(operation.access.buffer)
    note(operation.access.gather?.indices.buffer)
  }
  for (const { access } of stores) note(access.buffer)
  for (const { buffer } of columnSums) note(buffer)
  return roots
}
