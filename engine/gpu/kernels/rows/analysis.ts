// What passes and kernels ask of a row program: what is cheap to recompute, and its memory.
import type { BinaryName, UnaryName } from '../../../graph/operations.ts'
import type { Buffer, RowProgram, RowValue } from '../../../compiler/program.ts'

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

/** Whether each value takes next to no work and no memory to compute for an element, so that it is not worth keeping. */
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

/** The allocations that a row program uses, each once, in the order of their first use. */
export function allocationsOf({
  values,
  stores,
  columnSums,
}: Pick<RowProgram, 'values' | 'stores' | 'columnSums'>): Set<Buffer> {
  const allocations = new Set<Buffer>()
  const note = (buffer: Buffer | undefined) => buffer && allocations.add(buffer.allocation)
  for (const { operation } of values) {
    if (operation.kind !== 'load') continue
    note(operation.access.buffer)
    note(operation.access.gather?.indices.buffer)
  }
  for (const { access } of stores) note(access.buffer)
  for (const { buffer } of columnSums) note(buffer)
  return allocations
}
