/** What follows from the values of a row program: what each has one of, and in which pass over the row it is known. */
import type { Extent, RowValue } from './program.ts'

/** Whether a value is the sum or the maximum of a row. */
export const isReduction = ({ operation }: Pick<RowValue, 'operation'>): boolean =>
  operation.kind === 'reduce'

/** The extent of a value, by what it loads or by the extents of its inputs, which are among the earlier values. */
export function extentOf(
  { operation, inputs }: Omit<RowValue, 'extent'>,
  earlier: readonly RowValue[],
): Extent {
  if (operation.kind === 'load') {
    const { columnStride, gather, rowDims } = operation.access
    if (columnStride !== 0) return 'element'
    return gather || rowDims.length > 0 ? 'row' : 'uniform'
  }
  if (isReduction({ operation })) return 'row'
  const extents = inputs.map(input => earlier[input].extent)
  return extents.includes('element') ? 'element' : extents.includes('row') ? 'row' : 'uniform'
}

/** In which pass over a row each value is computed: one later than the reductions that it depends on. */
export function passesOf(values: readonly RowValue[]): number[] {
  const passes: number[] = []
  for (const { inputs } of values) {
    let pass = 0
    for (const input of inputs) pass = Math.max(pass, passes[input] + (isReduction(values[input]) ? 1 : 0))
    passes.push(pass)
  }
  return passes
}
