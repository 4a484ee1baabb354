// Finds row programs that horizontal fusion may run as one kernel.
import type { Access, Buffer, RowProgram } from '../../compiler/program.ts'
import type { Dispatch, TypeOf } from '../kernels/kernel.ts'
import { isReduction } from '../../compiler/row-values.ts'
import { allocationsOf } from '../kernels/rows/analysis.ts'

/** A row program or another kernel, with the allocations that it touches. */
export interface Step {
  readonly work: RowProgram | Dispatch
  readonly touches: ReadonlySet<Buffer>
  readonly writes: ReadonlySet<Buffer>
}

export const isRowProgram = (work: RowProgram | Dispatch): work is RowProgram => 'kind' in work

/** A small row program that can be fused with others like it. */
export interface FusionCandidate {
  readonly step: Step
  readonly work: RowProgram
  /** Equal for programs that compute the same. */
  readonly key: string
  /** Its allocations, in the same order for all candidates with this key. */
  readonly allocations: readonly Buffer[]
  /** Whether it is elementwise over whole buffers: such programs become one. Others, of equal shapes, become a batch. */
  readonly isFlat: boolean
}

/** Programs of fewer elements would not fill a large GPU alone. */
const smallElements = 1 << 20
export const elementsOf = ({ rows, columns }: RowProgram): number => rows * columns

/** A step as a candidate for fusion, if it can be one. numbers: names buffers that all candidates have to share. */
export function candidateOf(
  step: Step,
  typeOf: TypeOf,
  numbers: Map<Buffer, number>,
): FusionCandidate | undefined {
  const { work } = step
  if (!isRowProgram(work) || elementsOf(work) > smallElements) return undefined
  const allocations = [...allocationsOf(work)]
  const isFlat = isElementwise(work)
  const { rows, columns, rowBlock, values, stores, columnSums } = work
  const numberOf = ({ allocation }: Buffer): string => {
    const number = allocations.indexOf(allocation)
    if (!isFlat) return `${number}:${allocation.size}`
    // A single number for all elements has to be the same one in all programs.
    if (allocation.size === columns) return `${number}`
    const identity = numbers.get(allocation) ?? numbers.size
    numbers.set(allocation, identity)
    return `${number}#${identity}`
  }
  const accessKey = ({ buffer, offset, rowDims, columnStride, gather }: Access): string => {
    const indices = gather && [accessKey(gather.indices), gather.rowStride, gather.limit]
    return `${buffer ? numberOf(buffer) : ''}@${offset}[${rowDims.join(';')}]${columnStride}{${indices?.join() ?? ''}}`
  }
  const key = [
    isFlat ? 'flat' : [rows, columns, rowBlock].join(),
    allocations.map(allocation => `${typeOf(allocation)}${allocation.variable ? 'v' : ''}`).join(),
    ...values.map(({ operation, inputs, dtype }) => {
      const what =
        operation.kind === 'load'
          ? accessKey(operation.access)
          : operation.kind === 'constant'
            ? Object.is(operation.value, -0)
              ? '-0'
              : operation.value
            : 'name' in operation
              ? operation.name
              : ''
      return `${operation.kind} ${what} ${inputs.join()} ${dtype}`
    }),
    ...stores.map(({ value, access }) => `${value}>${accessKey(access)}`),
    ...columnSums.map(({ value, buffer, width }) => `${value}+${numberOf(buffer)} ${width}`),
  ].join('\n')
  return { step, work, key, allocations, isFlat }
}

/** Whether a program goes through whole buffers in order; beside these it may read single numbers. */
function isElementwise({ rows, columns, values, stores, columnSums }: RowProgram): boolean {
  const loads = values.flatMap(({ operation }) => (operation.kind === 'load' ? [operation.access] : []))
  const isWhole = ({ buffer, offset, columnStride, gather }: Access) =>
    buffer?.size === columns && offset === 0 && columnStride === 1 && !gather
  const isSingle = ({ buffer, columnStride, gather }: Access) =>
    buffer !== undefined && buffer.size !== columns && columnStride === 0 && !gather
  return (
    rows === 1 &&
    columns > 1 &&
    columnSums.length === 0 &&
    !values.some(isReduction) &&
    loads.every(access => isWhole(access) || isSingle(access)) &&
    stores.every(({ access }) => isWhole(access))
  )
}
