// Divides the reductions of few long rows among more workgroups.
import { type Access, Buffer, type RowProgram, type RowValue } from '../../compiler/program.ts'
import { isReduction, passesOf } from '../../compiler/row-values.ts'
import { RowBuilder } from './row-builder.ts'

/** A program with at most so many rows, of at least so many columns, is divided. */
const fewRows = 64
const longRow = 16384
const pieceLength = 8192
const mostPieces = 1024

/**
 * Divides a program whose few long rows would leave most of a GPU idle into several: the first reduce pieces of each row,
 * the next reduce the pieces' results, and the last computes the stores from these. Returns other programs as they are.
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
  /** Where the results of the reductions so far are. */
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

/** The fewest equal pieces that a row divides into, of at most pieceLength columns if possible. */
function divisorFor(columns: number): number | undefined {
  const fewest = Math.min(mostPieces, Math.ceil(columns / pieceLength))
  for (let pieces = Math.max(2, fewest); pieces <= mostPieces; pieces++)
    if (columns % pieces === 0) return pieces
  return undefined
}
