/** How an instruction reads its operands: in place where their strides suit its kernels, else from copies. */
import type { BufferAssignment } from './buffer-assignment.ts'
import { baseOf } from './fusion-groups.ts'
import type { Value } from './lowered.ts'
import { type Access, Buffer, type Matrix, type View } from './program.ts'
import type { Shape } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'
import { collapse, wholeView } from './views.ts'

/** The operands of one instruction. */
export class Operands {
  /** What the operands that were asked for so far need. */
  readonly needs: Value[] = []
  private readonly buffers: BufferAssignment

  constructor(buffers: BufferAssignment) {
    this.buffers = buffers
  }

  /** A tensor with whatever strides it has. */
  view(tensor: Tensor): View {
    const view = this.buffers.materialize(tensor) ?? this.buffers.copyOf(tensor)
    this.needs.push(this.buffers.sourceOf(tensor))
    return view
  }

  contiguous(tensor: Tensor): View {
    const view = this.buffers.materializeContiguous(tensor)
    this.needs.push(this.buffers.sourceOf(tensor))
    return view
  }

  /** A tensor whose rows are contiguous; [rows, columns]. */
  rows(tensor: Tensor): View {
    const view = this.view(tensor)
    return view.strides[1] === 1 || view.shape[1] === 1 ? view : this.copy(tensor)
  }

  /** [batch, length, width], with all rows at one stride and contiguous. */
  sequences(tensor: Tensor): View {
    const view = this.view(tensor)
    const [batch, length, width] = view.shape
    const [outer, stride, inner] = view.strides
    const fits = (inner === 1 || width === 1) && (batch === 1 || length === 1 || outer === stride * length)
    return fits && length > 1 ? view : this.copy(tensor)
  }

  /** A matrix, or a batch of them at one stride; stored by rows or by columns. */
  matrix(tensor: Tensor): Matrix {
    return asMatrix(this.view(tensor)) ?? this.copiedMatrix(tensor)
  }

  /** A matrix, or a batch of them at one stride; stored by rows. */
  matrixByRows(tensor: Tensor): Matrix {
    const matrix = asMatrix(this.view(tensor))
    return matrix && !matrix.transposed ? matrix : this.copiedMatrix(tensor)
  }

  /** A tensor as rows and columns of a row program, or as one value for each row. */
  access(tensor: Tensor, rows: number, columns: number): Access {
    const base = baseOf(tensor)
    if (base.operation.kind === 'iota') {
      // An iota's elements are their own addresses, so the address that the strides give is the value.
      const noMemory = new Buffer(0, 'int32')
      const view = this.buffers.applyMovements(tensor, wholeView(noMemory, base.shape))
      if (view) return { ...accessOf(view, rows, columns), buffer: undefined }
    }
    return accessOf(this.view(tensor), rows, columns)
  }

  private copy(tensor: Tensor): View {
    const view = this.buffers.copyOf(tensor)
    this.needs.push(view.buffer)
    return view
  }

  private copiedMatrix(tensor: Tensor): Matrix {
    const matrix = asMatrix(this.copy(tensor))
    if (!matrix) throw new Error('a copied matrix is not contiguous')
    return matrix
  }
}

export const lastExtent = (shape: Shape): number => (shape.length === 0 ? 1 : shape[shape.length - 1])

/** A view as the rows and columns of an iteration space, or as one element for each row. */
export function accessOf({ buffer, offset, shape, strides }: View, rows: number, columns: number): Access {
  const size = shape.reduce((a, b) => a * b, 1)
  const hasColumns = columns > 1 && lastExtent(shape) === columns && size === rows * columns
  const axes = hasColumns ? shape.length - 1 : shape.length
  const rowDims = collapse(shape.slice(0, axes), strides.slice(0, axes))
  const isMoving = rowDims.some(([, stride]) => stride !== 0)
  return {
    buffer,
    offset,
    rowDims: isMoving ? rowDims : [],
    columnStride: hasColumns ? strides[axes] : 0,
  }
}

/** A view as a matrix or a batch of them, if its strides allow that. */
export function asMatrix({ buffer, offset, shape, strides }: View): Matrix | undefined {
  const [rows, columns] = shape.slice(-2)
  const [down, across] = strides.slice(-2)
  const outer = collapse(shape.slice(0, -2), strides.slice(0, -2))
  if (outer.length > 1) return undefined
  const batchStride = outer.length === 1 ? outer[0][1] : 0
  const isByRows = across === 1 || columns === 1
  if (isByRows && (rows === 1 || down >= columns)) {
    return { buffer, offset, rowStride: rows === 1 ? columns : down, transposed: false, batchStride }
  }
  if ((down === 1 || rows === 1) && (columns === 1 || across >= rows)) {
    return { buffer, offset, rowStride: columns === 1 ? rows : across, transposed: true, batchStride }
  }
  return undefined
}
