import type { Access, Buffer, RowProgram } from '../../compiler/program.ts'
import type { Dispatch, TypeOf } from '../kernels/kernel.ts'
import { isReduction } from '../../compiler/row-values.ts'
import { rootsOf } from './row-programs.ts'

/** A row program, or what else runs, with the memory that it touches. */
export interface Step {
  readonly work: RowProgram | Dispatch
  readonly touches: ReadonlySet<Buffer>
  readonly writes: ReadonlySet<Buffer>
}

export const isRowProgram = (work: RowProgram | Dispatch): work is RowProgram => 'kind' in work

/** A small program whose like may be joined to it. */
export interface FusionCandidate {
  readonly step: Step
  readonly work: RowProgram
  /** The same for programs that do the same. */
  readonly key: string
  /** Its memory, in the same order for all with this key. */
  readonly roots: readonly Buffer[]
  /** Elementwise over whole buffers: these can be seen as one. Else programs of equal shapes form a batch. */
  readonly isFlat: boolean
}

/** Elements of a program that is small: alone it would not fill a large GPU. */
const smallElements = 1 << 20
export const elementsOf = ({ rows, columns }: RowProgram): number => rows * columns

/** What a step is to be joined by, if it can be. numbers: of buffers that have to be the same ones. */
export function candidateOf(
  step: Step,
  typeOf: TypeOf,
  numbers: Map<Buffer, number>,
): FusionCandidate | undefined {
  const { work } = step
  if (!isRowProgram(work) || elementsOf(work) > smallElements) return undefined
  const roots = [...rootsOf(work)]
  const isFlat = isElementwise(work)
  const { rows, columns, rowBlock, values, stores, columnSums } = work
  const numberOf = ({ allocation }: Buffer): string => {
    const number = roots.indexOf(allocation)
    if (!isFlat) return `${number}:${allocation.size}`
    // What is one number for all elements has to be the same one.
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
    roots.map(root => `${typeOf(root)}${root.variable ? 'v' : ''}`).join(),
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
  return { step, work, key, roots, isFlat }
}

/** Whether a program goes through whole buffers in their order, beside numbers of which there is one for all. */
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
