// Simplifies row programs before their kernels are written.
import { isReduction } from '../../compiler/row-values.ts'
import type { Access, RowProgram, RowValue } from '../../compiler/program.ts'
import { RowBuilder } from './row-builder.ts'

/** Removes values that nothing uses and reductions of constants, and flattens contiguous rows to one long row. */
export function simplify(work: RowProgram): RowProgram {
  const builder = new RowBuilder(work.values)
  const replace = (value: RowValue): number | undefined => {
    const { operation, inputs } = value
    if (operation.kind !== 'reduce' || work.values[inputs[0]].extent === 'element') return undefined
    // All of the row's elements have this value.
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

/** Makes one row of all elements, where every access goes through them at one stride. */
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

/** The stride of an access through the elements of all rows, if it has one. */
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
