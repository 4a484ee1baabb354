import { reshaped } from './canonicalize.ts'
import { type FusedGroup, type FusedValue, fuse } from './fuse.ts'
import { isVariable, reachable } from '../graph/operations.ts'
import { baseOf, isMovement, isRowOperation } from './fusion-groups.ts'
import type { Pausing } from './pauses.ts'
import {
  type Access,
  Buffer,
  type Extent,
  type Matrix,
  type RowProgram,
  type RowValue,
  type View,
  type Work,
  buffersOf,
} from './program.ts'
import type { Shape } from '../graph/shape.ts'
import { Tensor, constantValue } from '../graph/tensor.ts'
import { type TracedOperation, noteFused, operationsOf } from './traced.ts'
import { type RowPartition, partitionOf, rowBlockOf } from './row-blocks.ts'
import type { Variable } from '../runtime/variable.ts'
import { broadcastView, collapse, reshapeView, sliceView, transposeView, wholeView } from './views.ts'

/** An instruction on its way into a program. */
export interface LoweredInstruction {
  readonly work: Work
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly partition: RowPartition | undefined
  /** The graph's node that it was made for; orders instructions that could run in any order. */
  readonly order: number
  /** The latest stage of what it makes. */
  readonly microbatch: number
  /** What must be made before: stored tensors, and buffers that only instructions know. */
  readonly needs: readonly (Tensor | Buffer)[]
  readonly makes: readonly (Tensor | Buffer)[]
  /** Others that must have run before, since they read what this one overwrites. */
  readonly after: readonly LoweredInstruction[]
  /** What it computes of the graph, where origins are recorded. */
  readonly operations?: readonly TracedOperation[] | undefined
}

const lastOf = (shape: Shape): number => (shape.length === 0 ? 1 : shape[shape.length - 1])

/** The most sums of blocks that are added up one after the other: more would lose digits. */
const mostPartialSums = 128

/**
 * Turns a graph into instructions over buffers. Movements become views; what a concat joins is
 * written in its place; an operand that no view can give is copied.
 */
export class Lowering {
  readonly instructions: LoweredInstruction[] = []
  /** The buffers of the variables that the graph reads or that were asked for. */
  readonly variables = new Map<Variable, Buffer>()
  private readonly places = new Map<Tensor, View>()
  private readonly copies = new Map<Tensor, View>()

  /** An emitter of all that some tensors are computed from. */
  static *of(roots: readonly Tensor[]): Pausing<Lowering> {
    const emitter = new Lowering()
    yield* emitter.emitAll(roots)
    return emitter
  }

  private *emitAll(roots: readonly Tensor[]): Pausing<void> {
    const nodes = reachable(roots)
    const stored = new Set<Tensor>()
    for (const root of roots) stored.add(baseOf(root))
    for (const tensor of nodes) {
      if (tensor.operation.kind === 'columnSum') stored.add(tensor)
      if (isRowOperation(tensor) || isMovement(tensor)) continue
      for (const input of tensor.inputs) stored.add(baseOf(input))
    }
    const groups = yield* fuse(nodes, stored)
    for (const tensor of nodes.toReversed())
      if (tensor.operation.kind === 'concat') this.assignConcatBuffers(tensor)
    for (const group of groups) {
      yield
      this.lowerFusionGroup(group)
    }
    const elements = elementsOf(nodes)
    for (const tensor of nodes) {
      yield
      this.lowerNode(tensor, elements.get(tensor) ?? [])
    }
  }

  /** Where a tensor is, whatever its strides; a constant or an iota has no memory. */
  view(tensor: Tensor): View | undefined {
    const movements: Tensor[] = []
    let base = tensor
    for (; isMovement(base) && !this.copies.has(base); [base] = base.inputs) movements.push(base)
    const { kind } = base.operation
    let view = this.copies.get(base)
    if (!view && kind !== 'constant' && kind !== 'iota') view = this.bufferOf(base)
    for (const movement of movements.toReversed()) {
      if (!view) return undefined
      view = moved(view, movement) ?? reshapeView(this.copy(movement.inputs[0]), movement.shape)
    }
    return view
  }

  /** Where a tensor is as one row-major piece, copied there if need be. */
  contiguous(tensor: Tensor): View {
    const view = this.view(tensor)
    const whole = view && collapse(view.shape, view.strides)
    return view && (whole?.length === 0 || (whole?.length === 1 && whole[0][1] === 1))
      ? view
      : this.copy(tensor)
  }

  variable(variable: Variable): Buffer {
    const buffer = this.variables.get(variable) ?? new Buffer(variable.size, variable.dtype, variable)
    this.variables.set(variable, buffer)
    return buffer
  }

  /** Copies a tensor over a view, once the instructions after have run. */
  addCopy(tensor: Tensor, to: View, makes: Tensor | Buffer, after: readonly LoweredInstruction[] = []): void {
    const columns = lastOf(tensor.shape)
    const rows = tensor.size / columns
    const load = {
      tensor,
      inputs: [],
      kind: constantValue(tensor) === undefined ? ('load' as const) : ('constant' as const),
    }
    this.lowerRowProgram(rows, columns, [load], [{ value: 0, view: to, makes }], [], tensor.id, after)
  }

  /** Where a stored tensor is. */
  bufferOf(tensor: Tensor): View {
    const known = this.places.get(tensor)
    if (known) return known
    const buffer = isVariable(tensor) ? this.variable(tensor) : new Buffer(tensor.size, tensor.dtype)
    const view = wholeView(buffer, tensor.shape)
    this.places.set(tensor, view)
    return view
  }

  /** A tensor as a row-major copy of its own. */
  copy(tensor: Tensor): View {
    const known = this.copies.get(tensor)
    if (known) return known
    const view = wholeView(new Buffer(tensor.size, tensor.dtype), tensor.shape)
    this.addCopy(tensor, view, view.buffer)
    this.copies.set(tensor, view)
    return view
  }

  /** Gives each piece of a concat its place in the whole; what cannot be made there is copied there. */
  private assignConcatBuffers(tensor: Tensor): void {
    if (tensor.operation.kind !== 'concat') return
    const { axis } = tensor.operation
    const whole = this.bufferOf(tensor)
    let start = 0
    for (const piece of tensor.inputs) {
      const part = sliceView(whole, axis, start, piece.shape)
      start += piece.shape[axis]
      const base = piece.operation.kind === 'reshape' ? piece.inputs[0] : piece
      const { kind } = base.operation
      const makes = isRowOperation(base)
        ? kind !== 'columnSum'
        : ['matmul', 'element', 'concat'].includes(kind)
      const place = makes && !this.places.has(base) ? reshapeView(part, base.shape) : undefined
      if (place && lastOf(place.strides) <= 1) this.places.set(base, place)
      else this.addCopy(piece, part, tensor)
    }
  }

  private lowerFusionGroup({ group, values, stores, columnSums }: FusedGroup): void {
    const placed = stores.map(({ tensor, value }) => ({ value, view: this.bufferOf(tensor), makes: tensor }))
    const sums = columnSums.map(({ tensor, value }) => ({ value, tensor }))
    const first = [...stores, ...columnSums].reduce((id, { tensor }) => Math.min(id, tensor.id), Infinity)
    this.lowerRowProgram(group.rows, group.columns, values, placed, sums, first)
  }

  private lowerRowProgram(
    rows: number,
    columns: number,
    fused: readonly FusedValue[],
    stores: readonly { value: number; view: View; makes: Tensor | Buffer }[],
    sums: readonly { value: number; tensor: Tensor }[],
    rank: number,
    after: readonly LoweredInstruction[] = [],
  ): void {
    const needs: (Tensor | Buffer)[] = []
    const values = fused.map(value => this.rowValue(value, rows, columns, needs))
    // Inputs come first, so extents can be settled in order.
    const settled: RowValue[] = []
    for (const value of values) settled.push({ ...value, extent: extentOf(value, settled) })
    const rowBlock = Math.min(rowBlockOf(rows), rows)
    const partial = sums.map(({ value, tensor }) => {
      const width = tensor.size
      const buffer =
        rows > rowBlock
          ? new Buffer(Math.ceil(rows / rowBlock) * width, 'float32')
          : this.bufferOf(tensor).buffer
      return { value, buffer, tensor, width }
    })
    const work: RowProgram = {
      kind: 'rows',
      rows,
      columns,
      rowBlock,
      values: settled,
      stores: stores.map(({ value, view }) => ({ value, access: accessOf(view, rows, columns) })),
      columnSums: partial.map(({ value, buffer, width }) => ({ value, buffer, width })),
    }
    noteFused(
      work,
      fused,
      sums.map(({ tensor }) => tensor),
    )
    const makes = [
      ...stores.map(store => store.makes),
      ...partial.map(({ buffer, tensor }) => (rows > rowBlock ? buffer : tensor)),
    ]
    this.add(work, rank, needs, makes, after)
    for (const { buffer, tensor, width } of partial) {
      if (rows > rowBlock) this.addPartialSums(buffer, Math.ceil(rows / rowBlock), width, tensor)
    }
  }

  /** Adds up the column sums of the blocks, in their order; of many blocks, first those of blocks of them. */
  private addPartialSums(buffer: Buffer, blocks: number, width: number, tensor: Tensor): void {
    const rowBlock = blocks > mostPartialSums ? rowBlockOf(blocks) : blocks
    const isLast = rowBlock === blocks
    const sums = isLast
      ? this.bufferOf(tensor).buffer
      : new Buffer(Math.ceil(blocks / rowBlock) * width, 'float32')
    const load: Access = { buffer, offset: 0, rowDims: [[blocks, width]], columnStride: width > 1 ? 1 : 0 }
    const extent = width > 1 ? 'element' : 'row'
    const values: RowValue[] = [
      { operation: { kind: 'load', access: load }, inputs: [], extent, dtype: 'float32' },
    ]
    const columnSums = [{ value: 0, buffer: sums, width }]
    const work: RowProgram = {
      kind: 'rows',
      rows: blocks,
      columns: width,
      rowBlock,
      values,
      stores: [],
      columnSums,
    }
    noteFused(work, [], [tensor])
    this.add(work, tensor.id, [buffer], [isLast ? tensor : sums])
    if (!isLast) this.addPartialSums(sums, Math.ceil(blocks / rowBlock), width, tensor)
  }

  private rowValue(
    { tensor, inputs, kind }: FusedValue,
    rows: number,
    columns: number,
    needs: (Tensor | Buffer)[],
  ): RowValue {
    const { operation, dtype } = tensor
    const value = { inputs, dtype, extent: 'uniform' as Extent }
    if (kind === 'constant') return { ...value, operation: { kind, value: constantValue(tensor) ?? 0 } }
    if (kind === 'load')
      return { ...value, operation: { kind, access: this.load(tensor, rows, columns, needs) } }
    switch (operation.kind) {
      case 'gather': {
        const [table, indices] = tensor.inputs
        const view = this.operand(table, needs)
        const index = this.load(reshaped(indices, [rows, 1]), rows, 1, needs)
        const gather = { indices: index, rowStride: view.strides[0], limit: table.shape[0] }
        const columnStride = columns > 1 ? view.strides[1] : 0
        return {
          ...value,
          operation: {
            kind: 'load',
            access: { buffer: view.buffer, offset: view.offset, rowDims: [], columnStride, gather },
          },
        }
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

  private load(tensor: Tensor, rows: number, columns: number, needs: (Tensor | Buffer)[]): Access {
    const base = baseOf(tensor)
    if (base.operation.kind === 'iota') {
      // No memory: the address that the strides lead to is the value.
      const nowhere = new Buffer(0, 'int32')
      const view = this.virtualView(tensor, wholeView(nowhere, base.shape))
      if (view) return { ...accessOf(view, rows, columns), buffer: undefined }
    }
    return accessOf(this.operand(tensor, needs), rows, columns)
  }

  /** A chain of movements applied to a view of what it starts from; undefined where they need a copy, which is made. */
  private virtualView(tensor: Tensor, base: View): View | undefined {
    const movements: Tensor[] = []
    for (let next = tensor; isMovement(next); [next] = next.inputs) movements.push(next)
    let view: View | undefined = base
    for (const movement of movements.toReversed()) {
      view = moved(view, movement)
      if (!view) {
        this.copy(movement.inputs[0])
        return undefined
      }
    }
    return view
  }

  /** A tensor's view, with a note that it is needed. */
  private operand(tensor: Tensor, needs: (Tensor | Buffer)[]): View {
    const view = this.view(tensor) ?? this.copy(tensor)
    needs.push(this.copyBehind(tensor)?.buffer ?? baseOf(tensor))
    return view
  }

  private copyBehind(tensor: Tensor): View | undefined {
    let base = tensor
    while (isMovement(base) && !this.copies.has(base)) [base] = base.inputs
    return this.copies.get(base)
  }

  /** elements: those of the tuple that the node is. */
  private lowerNode(tensor: Tensor, elements: readonly Tensor[]): void {
    const { operation, inputs, shape } = tensor
    const needs: (Tensor | Buffer)[] = []
    switch (operation.kind) {
      case 'matmul': {
        const [a, b, residual] = inputs
        const [m, n] = shape.slice(-2)
        const k = a.shape[a.shape.length - (operation.transposeA ? 2 : 1)]
        const batch = tensor.size / (m * n)
        const matrix = (operand: Tensor, swapped: boolean) => this.matrix(operand, swapped, needs)
        const matrices = {
          a: matrix(a, operation.transposeA),
          b: matrix(b, operation.transposeB),
          c: asMatrix(this.bufferOf(tensor)),
        }
        if (!matrices.c) throw new Error('a product has no place of its own')
        const sum = residual && this.matrix(residual, false, needs, true)
        this.add(
          { kind: 'matmul', batch, m, n, k, ...matrices, c: matrices.c, ...(sum && { addend: sum }) },
          tensor.id,
          needs,
          [tensor],
        )
        break
      }
      case 'scatterAdd': {
        const [values, indices, base] = inputs
        const columns = lastOf(values.shape)
        const count = values.size / columns
        const flat = reshaped(values, [count, columns])
        const view = this.operand(flat, needs)
        const rows = view.strides[1] === 1 || columns === 1 ? view : this.copied(flat, needs)
        const work = {
          kind: 'scatterAdd' as const,
          rows: operation.rows,
          columns,
          count,
          values: rows,
          indices: this.contiguousOperand(reshaped(indices, [count]), needs),
          ...(base && { base: this.contiguousOperand(base, needs) }),
          out: this.bufferOf(tensor),
        }
        this.add(work, tensor.id, needs, [tensor])
        break
      }
      case 'attention':
      case 'attentionGradient': {
        const { heads, scale, kind } = operation
        const [query, , value] = inputs
        const [batch, length] = query.shape
        const slope = inputs.length - (kind === 'attention' ? 3 : 6) > 0
        const shapes =
          kind === 'attention'
            ? [value.shape, [batch, heads, length]]
            : [...inputs.slice(0, 3).map(input => input.shape), ...(slope ? [[batch, heads]] : [])]
        const results = shapes.map((resultShape, index) => {
          const element = elements.find(
            ({ operation }) => operation.kind === 'element' && operation.index === index,
          )
          return element
            ? this.bufferOf(element)
            : wholeView(
                new Buffer(
                  resultShape.reduce((a, b) => a * b, 1),
                  'float32',
                ),
                resultShape,
              )
        })
        const operands = inputs.map(input =>
          input.shape.length === 3 ? this.sequences(input, needs) : this.contiguousOperand(input, needs),
        )
        const widths = { keyDim: query.shape[2] / heads, valueDim: value.shape[2] / heads }
        this.add(
          { kind, heads, scale, batch, length, ...widths, operands, results, slope },
          tensor.id,
          needs,
          elements,
        )
        break
      }
      default:
        break
    }
  }

  /** A matrix operand; rows one after the other in either order, batches at one stride. */
  private matrix(operand: Tensor, swapped: boolean, needs: (Tensor | Buffer)[], straight = false): Matrix {
    const view = this.operand(operand, needs)
    const found = asMatrix(view)
    const matrix = found && !(straight && found.transposed) ? found : asMatrix(this.copied(operand, needs))
    if (!matrix) throw new Error('a copied matrix is not contiguous')
    return { ...matrix, transposed: matrix.transposed !== swapped }
  }

  /** [batch, length, width] with rows at one stride and channels side by side. */
  private sequences(operand: Tensor, needs: (Tensor | Buffer)[]): View {
    const view = this.operand(operand, needs)
    const [batch, length] = view.shape
    const [outer, stride, inner] = view.strides
    const fits =
      (inner === 1 || view.shape[2] === 1) && (batch === 1 || length === 1 || outer === stride * length)
    return fits && length > 1 ? view : this.copied(operand, needs)
  }

  private contiguousOperand(operand: Tensor, needs: (Tensor | Buffer)[]): View {
    const view = this.contiguous(operand)
    needs.push(this.copyBehind(operand)?.buffer ?? baseOf(operand))
    return view
  }

  private copied(operand: Tensor, needs: (Tensor | Buffer)[]): View {
    const view = this.copy(operand)
    needs.push(view.buffer)
    return view
  }

  private add(
    work: Work,
    rank: number,
    needs: readonly (Tensor | Buffer)[],
    makes: readonly (Tensor | Buffer)[],
    after: readonly LoweredInstruction[] = [],
  ): void {
    const { reads, writes } = buffersOf(work)
    const stages = makes.flatMap(made => (made instanceof Tensor ? [made.microbatch] : []))
    this.instructions.push({
      work,
      reads,
      writes,
      partition: partitionOf(work),
      order: rank,
      microbatch: stages.reduce((latest, stage) => Math.max(latest, stage), 0),
      needs,
      makes,
      after,
      operations: operationsOf(work, makes),
    })
  }
}

/** The elements of each tuple that is used. */
function elementsOf(nodes: readonly Tensor[]): Map<Tensor, Tensor[]> {
  const elements = new Map<Tensor, Tensor[]>()
  for (const tensor of nodes) {
    if (tensor.operation.kind !== 'element') continue
    const [tuple] = tensor.inputs
    const known = elements.get(tuple)
    if (known) known.push(tensor)
    else elements.set(tuple, [tensor])
  }
  return elements
}

/** A view after a movement; undefined where a reshape needs a copy. */
function moved(view: View, { operation, shape }: Tensor): View | undefined {
  switch (operation.kind) {
    case 'reshape':
      return reshapeView(view, shape)
    case 'transpose':
      return transposeView(view, operation.permutation)
    case 'slice':
      return sliceView(view, operation.axis, operation.start, shape)
    default:
      return broadcastView(view, shape)
  }
}

function extentOf(value: RowValue, earlier: readonly RowValue[]): Extent {
  const { operation, inputs } = value
  if (operation.kind === 'load') {
    const { access } = operation
    if (access.columnStride !== 0) return 'element'
    return access.gather || access.rowDims.length > 0 ? 'row' : 'uniform'
  }
  if (operation.kind === 'reduce') return 'row'
  const extents = inputs.map(input => earlier[input].extent)
  return extents.includes('element') ? 'element' : extents.includes('row') ? 'row' : 'uniform'
}

/** A view of a domain's rows and columns, or of one element a row. */
function accessOf({ buffer, offset, shape, strides }: View, rows: number, columns: number): Access {
  const wide = columns > 1 && lastOf(shape) === columns && shape.reduce((a, b) => a * b, 1) === rows * columns
  const axes = wide ? shape.length - 1 : shape.length
  const rowDims = collapse(shape.slice(0, axes), strides.slice(0, axes))
  const moving = rowDims.some(([, stride]) => stride !== 0)
  return { buffer, offset, rowDims: moving ? rowDims : [], columnStride: wide ? strides[axes] : 0 }
}

/** A view as a matrix or a batch of them, if its strides allow that. */
function asMatrix({ buffer, offset, shape, strides }: View): Matrix | undefined {
  const [rows, columns] = shape.slice(-2)
  const [down, across] = strides.slice(-2)
  const lead = collapse(shape.slice(0, -2), strides.slice(0, -2))
  if (lead.length > 1) return undefined
  const batchStride = lead.length === 1 ? lead[0][1] : 0
  const straight = across === 1 || columns === 1
  if (straight && (rows === 1 || down >= columns)) {
    return { buffer, offset, rowStride: rows === 1 ? columns : down, transposed: false, batchStride }
  }
  if ((down === 1 || rows === 1) && (columns === 1 || across >= rows)) {
    return { buffer, offset, rowStride: columns === 1 ? rows : across, transposed: true, batchStride }
  }
  return undefined
}
