/** Lowers fusion groups, copies and column sums to row programs. */
import { reshaped } from '../graph/movements.ts'
import type { BufferAssignment } from './buffer-assignment.ts'
import type { FusedGroup, FusedValue } from './fuse.ts'
import type { IterationSpace } from './fusion-groups.ts'
import type { LoweredInstruction, Value } from './lowered.ts'
import { Operands, accessOf, lastExtent } from './operands.ts'
import { Buffer, type RowProgram, type RowValue, type View, type Work } from './program.ts'
import { rowBlockOf } from './row-blocks.ts'
import { extentOf } from './row-values.ts'
import { type Tensor, constantValue } from '../graph/tensor.ts'
import { noteFused } from './traced.ts'

/** Adds an instruction. order: see LoweredInstruction. */
export type Add = (
  work: Work,
  order: number,
  needs: readonly Value[],
  makes: readonly Value[],
) => LoweredInstruction

/** A value that a row program stores. */
interface Store {
  readonly value: number
  readonly view: View
  readonly makes: Value
}

/** The most partial sums that are added one after the other: with more, rounding errors grow. */
const mostPartialSums = 128

export class RowLowering {
  private readonly buffers: BufferAssignment
  private readonly add: Add

  constructor(buffers: BufferAssignment, add: Add) {
    this.buffers = buffers
    this.add = add
  }

  lowerGroup({ group, values, stores, columnSums }: FusedGroup): void {
    const first = [...stores, ...columnSums].reduce((id, { tensor }) => Math.min(id, tensor.id), Infinity)
    const stored = stores.map(({ tensor, value }) => ({
      value,
      view: this.buffers.viewOf(tensor),
      makes: tensor,
    }))
    this.addRowProgram(group, values, stored, columnSums, first)
  }

  /** Copies a tensor to a view. makes: what is complete once this and its other instructions have run. */
  addCopy(tensor: Tensor, to: View, makes: Value): LoweredInstruction {
    const columns = lastExtent(tensor.shape)
    const kind = constantValue(tensor) === undefined ? 'load' : 'constant'
    return this.addRowProgram(
      { rows: tensor.size / columns, columns },
      [{ tensor, inputs: [], kind }],
      [{ value: 0, view: to, makes }],
      [],
      tensor.id,
    )
  }

  private addRowProgram(
    { rows, columns }: IterationSpace,
    fused: readonly FusedValue[],
    stores: readonly Store[],
    sums: FusedGroup['columnSums'],
    order: number,
  ): LoweredInstruction {
    const operands = new Operands(this.buffers)
    // Inputs come first, so their extents are known.
    const values: RowValue[] = []
    for (const value of fused) {
      const lowered = lowerValue(value, rows, columns, operands)
      values.push({ ...lowered, extent: extentOf(lowered, values) })
    }
    const rowBlock = Math.min(rowBlockOf(rows), rows)
    const blocks = Math.ceil(rows / rowBlock)
    const columnSums = sums.map(({ value, tensor }) => {
      const width = tensor.size
      const buffer = blocks > 1 ? new Buffer(blocks * width, 'float32') : this.buffers.viewOf(tensor).buffer
      return { value, buffer, width, tensor }
    })
    const work: RowProgram = {
      kind: 'rows',
      rows,
      columns,
      rowBlock,
      values,
      stores: stores.map(({ value, view }) => ({ value, access: accessOf(view, rows, columns) })),
      columnSums: columnSums.map(({ value, buffer, width }) => ({ value, buffer, width })),
    }
    noteFused(
      work,
      fused,
      sums.map(({ tensor }) => tensor),
    )
    const makes = [
      ...stores.map(store => store.makes),
      ...columnSums.map(({ buffer, tensor }) => (blocks > 1 ? buffer : tensor)),
    ]
    const instruction = this.add(work, order, operands.needs, makes)
    if (blocks > 1)
      for (const { buffer, tensor, width } of columnSums) this.addPartialSums(buffer, blocks, width, tensor)
    return instruction
  }

  /** Adds up the column sums of blocks, in order. Many blocks are summed in several levels. */
  private addPartialSums(buffer: Buffer, blocks: number, width: number, tensor: Tensor): void {
    const rowBlock = blocks > mostPartialSums ? rowBlockOf(blocks) : blocks
    const sumsLeft = Math.ceil(blocks / rowBlock)
    const isLast = sumsLeft === 1
    const sums = isLast ? this.buffers.viewOf(tensor).buffer : new Buffer(sumsLeft * width, 'float32')
    const columnStride = width > 1 ? 1 : 0
    const load: Omit<RowValue, 'extent'> = {
      operation: { kind: 'load', access: { buffer, offset: 0, rowDims: [[blocks, width]], columnStride } },
      inputs: [],
      dtype: 'float32',
    }
    const work: RowProgram = {
      kind: 'rows',
      rows: blocks,
      columns: width,
      rowBlock,
      values: [{ ...load, extent: extentOf(load, []) }],
      stores: [],
      columnSums: [{ value: 0, buffer: sums, width }],
    }
    noteFused(work, [], [tensor])
    this.add(work, tensor.id, [buffer], [isLast ? tensor : sums])
    if (!isLast) this.addPartialSums(sums, sumsLeft, width, tensor)
  }
}

function lowerValue(
  { tensor, inputs, kind }: FusedValue,
  rows: number,
  columns: number,
  operands: Operands,
): Omit<RowValue, 'extent'> {
  const { operation, dtype } = tensor
  const value = { inputs, dtype }
  if (kind === 'constant') return { ...value, operation: { kind, value: constantValue(tensor) ?? 0 } }
  if (kind === 'load')
    return { ...value, operation: { kind, access: operands.access(tensor, rows, columns) } }
  switch (operation.kind) {
    case 'gather': {
      const [table, indices] = tensor.inputs
      const { buffer, offset, strides } = operands.view(table)
      const gather = {
        indices: operands.access(reshaped(indices, [rows, 1]), rows, 1),
        rowStride: strides[0],
        limit: table.shape[0],
      }
      const columnStride = columns > 1 ? strides[1] : 0
      const access = { buffer, offset, rowDims: [], columnStride, gather }
      return { ...value, operation: { kind: 'load', access } }
    }
    case 'unary':
    case 'binary':
    case 'where':
    case 'reduce':
      return { ...value, operation }
    default:
      throw new Error(`a row program cannot compute ${operation.kind}`)
  }
}
