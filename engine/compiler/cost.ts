/** How many operations and bytes an instruction takes, for progress, plans and profiles. */
import {
  type Access,
  type Buffer,
  type Matrix,
  type Program,
  type View,
  type Work,
  attentionOperands,
  attentionResults,
} from './program.ts'

/** The least that an instruction takes. */
export interface Cost {
  /** Floating-point operations of its products. */
  readonly flops: number
  /** Bytes read and written, if each element is read or written once. */
  readonly bytes: number
}

/**
 * Floating-point operations of a program's products: two for each multiplication with its addition. Attention counts
 * the causal half. Elementwise operations do not count.
 */
export const flopsOf = ({ instructions }: Program): number =>
  instructions.reduce((sum, { work }) => sum + workFlops(work), 0)

/** bytesEach: the bytes of an element of a buffer. */
export function costOf(work: Work, bytesEach: (buffer: Buffer) => number = () => 4): Cost {
  return { flops: workFlops(work), bytes: workBytes(work, bytesEach) }
}

function workFlops(work: Work): number {
  if (work.kind === 'matmul') return 2 * work.batch * work.m * work.n * work.k
  if (work.kind !== 'attention' && work.kind !== 'attentionGradient') return 0
  const { batch, heads, length, keyDim, valueDim } = work
  const pairs = (batch * heads * length * (length + 1)) / 2
  // Forward q·k and p·v; backward q·k again, and two products for each of the three gradients' pairs.
  const products = work.kind === 'attention' ? keyDim + valueDim : 3 * keyDim + 2 * valueDim
  return 2 * pairs * products
}

function workBytes(work: Work, bytesEach: (buffer: Buffer) => number): number {
  const viewBytes = ({ buffer, shape }: View) =>
    bytesEach(buffer) * shape.reduce((product, extent) => product * extent, 1)
  const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)
  switch (work.kind) {
    case 'rows': {
      const { rows, columns, values, stores, columnSums } = work
      const accessBytes = ({ buffer, gather, rowDims, columnStride }: Access): number => {
        const moving = rowDims.reduce((product, [extent, stride]) => product * (stride === 0 ? 1 : extent), 1)
        const elements = (gather ? rows : moving) * (columnStride === 0 ? 1 : columns)
        return (buffer ? bytesEach(buffer) * elements : 0) + (gather ? accessBytes(gather.indices) : 0)
      }
      // Loads from the same place are read once.
      const loads = new Map<string, number>()
      const numbers = new Map<Buffer, number>()
      for (const { operation } of values) {
        if (operation.kind !== 'load' || !operation.access.buffer) continue
        const { buffer, offset, rowDims, columnStride, gather } = operation.access
        const number = numbers.get(buffer) ?? numbers.size
        numbers.set(buffer, number)
        const key = [number, offset, rowDims.join(';'), columnStride, gather !== undefined].join()
        loads.set(key, accessBytes(operation.access))
      }
      return (
        sum([...loads.values()]) +
        sum(stores.map(({ access }) => accessBytes(access))) +
        sum(columnSums.map(({ buffer }) => bytesEach(buffer) * buffer.size))
      )
    }
    case 'matmul': {
      const { batch, m, n, k, a, b, c, addend } = work
      const matrixBytes = ({ buffer, batchStride }: Matrix, size: number) =>
        bytesEach(buffer) * size * (batchStride === 0 ? 1 : batch)
      return (
        matrixBytes(a, m * k) +
        matrixBytes(b, k * n) +
        matrixBytes(c, m * n) +
        (addend ? matrixBytes(addend, m * n) : 0)
      )
    }
    case 'scatterAdd': {
      const { values, indices, base, out } = work
      // In place, it reads and writes only the rows that are indexed.
      const inPlace = base?.buffer.allocation === out.buffer.allocation
      const rest = inPlace ? 2 * viewBytes(values) : viewBytes(out) + (base ? viewBytes(base) : 0)
      return viewBytes(values) + viewBytes(indices) + rest
    }
    case 'attention':
    case 'attentionGradient':
      return sum([...attentionOperands(work), ...attentionResults(work)].map(viewBytes))
  }
}
