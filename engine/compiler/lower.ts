/** Lowers a graph to instructions over buffers. Movements become views, and concats are computed in place. */
import { reshaped } from '../graph/movements.ts'
import { BufferAssignment } from './buffer-assignment.ts'
import { fuse } from './fuse.ts'
import { baseOf, isMovement, isRowOperation } from './fusion-groups.ts'
import { isVariable, reachable } from '../graph/node.ts'
import type { Operation } from '../graph/operations.ts'
import { RowLowering } from './lower-rows.ts'
import type { Assignment, LoweredGraph, LoweredInstruction, Value, VariableNode } from './lowered.ts'
import { Operands, asMatrix, lastExtent } from './operands.ts'
import type { Pausing } from './pauses.ts'
import { type Attention, type AttentionOperands, Buffer, type View, type Work, buffersOf } from './program.ts'
import { partitionOf } from './row-blocks.ts'
import { type Shape, sizeOf } from '../graph/shape.ts'
import { Tensor } from '../graph/tensor.ts'
import { operationsOf } from './traced.ts'
import { reshapeView, sliceView, wholeView } from './views.ts'

type OperationOf<Kind extends Operation['kind']> = Extract<Operation, { readonly kind: Kind }>

/** Lowers what some outputs and the new values of variables are computed from. inputs: the nodes of the inputs. */
export function* lower(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<VariableNode, Tensor>,
  inputs: readonly Tensor[],
): Pausing<LoweredGraph> {
  const lowering = new Lowering()
  yield* lowering.lowerNodes([...outputs, ...assignments.values()])
  return yield* lowering.finish(outputs, assignments, inputs)
}

class Lowering {
  private readonly instructions: LoweredInstruction[] = []
  private readonly buffers: BufferAssignment
  private readonly rows: RowLowering

  constructor() {
    this.buffers = new BufferAssignment((tensor, to) => this.rows.addCopy(tensor, to, to.buffer))
    this.rows = new RowLowering(this.buffers, this.add.bind(this))
  }

  *lowerNodes(roots: readonly Tensor[]): Pausing<void> {
    const nodes = reachable(roots)
    const stored = new Set<Tensor>()
    for (const root of roots) stored.add(baseOf(root))
    for (const tensor of nodes) {
      if (tensor.operation.kind === 'columnSum') stored.add(tensor)
      if (isRowOperation(tensor) || isMovement(tensor)) continue
      for (const input of tensor.inputs) stored.add(baseOf(input))
    }
    const groups = yield* fuse(nodes, stored)
    for (const tensor of nodes.toReversed()) if (tensor.operation.kind === 'concat') this.assignConcat(tensor)
    for (const group of groups) {
      yield
      this.rows.lowerGroup(group)
    }
    const elements = elementsOf(nodes)
    for (const tensor of nodes) {
      yield
      this.lowerNode(tensor, elements.get(tensor) ?? [])
    }
  }

  /** Adds the copies that outputs and assignments need. */
  *finish(
    outputs: readonly Tensor[],
    assignments: ReadonlyMap<VariableNode, Tensor>,
    inputs: readonly Tensor[],
  ): Pausing<LoweredGraph> {
    const { buffers, instructions } = this
    // The old value of a variable that is assigned has to be saved if it is wanted after the run.
    const isOverwritten = (tensor: Tensor) => {
      const base = baseOf(tensor)
      return isVariable(base) && assignments.has(base)
    }
    const outputViews = outputs.map(tensor =>
      isOverwritten(tensor) ? buffers.copyOf(tensor) : buffers.materializeContiguous(tensor),
    )
    const inputBuffers = inputs.map(input => buffers.viewOf(input).buffer)
    for (const tensor of assignments.values()) if (isOverwritten(tensor)) buffers.copyOf(tensor)
    const lowered: Assignment[] = []
    for (const [variable, tensor] of assignments) {
      yield
      const target = buffers.variable(variable)
      const isComputed = !isOverwritten(tensor) && !isMovement(tensor)
      const computed = isComputed ? buffers.materialize(tensor)?.buffer : undefined
      const copy = this.rows.addCopy(tensor, wholeView(target, tensor.shape), target)
      lowered.push({ target, tensor, computed, copy })
    }
    return {
      instructions,
      inputs: inputBuffers,
      outputs: outputViews,
      assignments: lowered,
      variables: buffers.variables,
    }
  }

  /** Gives each input of a concat its part of the whole's memory. One that cannot be computed there is copied there. */
  private assignConcat(tensor: Tensor): void {
    if (tensor.operation.kind !== 'concat') return
    const { axis } = tensor.operation
    const { buffers } = this
    const whole = buffers.viewOf(tensor)
    let start = 0
    for (const input of tensor.inputs) {
      const part = sliceView(whole, axis, start, input.shape)
      start += input.shape[axis]
      const base = input.operation.kind === 'reshape' ? input.inputs[0] : input
      const { kind } = base.operation
      const isComputed = isRowOperation(base)
        ? kind !== 'columnSum'
        : ['matmul', 'element', 'concat'].includes(kind)
      const view = isComputed && !buffers.hasMemory(base) ? reshapeView(part, base.shape) : undefined
      if (view && lastExtent(view.strides) <= 1) buffers.assign(base, view)
      else this.rows.addCopy(input, part, tensor)
    }
  }

  /** Lowers a node that has an instruction of its own. elements: those of the tuple that the node is. */
  private lowerNode(tensor: Tensor, elements: readonly Tensor[]): void {
    const { operation } = tensor
    switch (operation.kind) {
      case 'matmul':
        return this.lowerMatmul(tensor, operation)
      case 'scatterAdd':
        return this.lowerScatterAdd(tensor, operation)
      case 'attention':
      case 'attentionGradient':
        return this.lowerAttention(tensor, operation, elements)
      // Row operations are lowered by fusion group, movements and concats by where their inputs are.
      case 'unary':
      case 'binary':
      case 'where':
      case 'reduce':
      case 'columnSum':
      case 'gather':
      case 'reshape':
      case 'transpose':
      case 'slice':
      case 'broadcast':
      case 'concat':
      case 'element':
      case 'constant':
      case 'iota':
      case 'input':
      case 'variable':
        return
      default:
        operation satisfies never
    }
  }

  private lowerMatmul(tensor: Tensor, { transposeA, transposeB }: OperationOf<'matmul'>): void {
    const { shape, size, id } = tensor
    const [a, b, addend] = tensor.inputs
    const [m, n] = shape.slice(-2)
    const k = a.shape[a.shape.length - (transposeA ? 2 : 1)]
    const operands = new Operands(this.buffers)
    const operand = (input: Tensor, isTransposed: boolean) => {
      const matrix = operands.matrix(input)
      return { ...matrix, transposed: matrix.transposed !== isTransposed }
    }
    const matrices = { a: operand(a, transposeA), b: operand(b, transposeB) }
    const c = asMatrix(this.buffers.viewOf(tensor))
    if (!c) throw new Error('a product is stored with strides that its kernel cannot write')
    const sum = addend && { addend: operands.matrixByRows(addend) }
    const work: Work = { kind: 'matmul', batch: size / (m * n), m, n, k, ...matrices, c, ...sum }
    this.add(work, id, operands.needs, [tensor])
  }

  private lowerScatterAdd(tensor: Tensor, { rows }: OperationOf<'scatterAdd'>): void {
    const [values, indices, base] = tensor.inputs
    const columns = lastExtent(values.shape)
    const count = values.size / columns
    const operands = new Operands(this.buffers)
    const work: Work = {
      kind: 'scatterAdd',
      rows,
      columns,
      count,
      values: operands.rows(reshaped(values, [count, columns])),
      indices: operands.contiguous(reshaped(indices, [count])),
      ...(base && { base: operands.contiguous(base) }),
      out: this.buffers.viewOf(tensor),
    }
    this.add(work, tensor.id, operands.needs, [tensor])
  }

  private lowerAttention(
    { inputs, id }: Tensor,
    { kind, heads, scale }: OperationOf<'attention'> | OperationOf<'attentionGradient'>,
    elements: readonly Tensor[],
  ): void {
    const given = new Operands(this.buffers)
    const [query, key, value, slope] = kind === 'attention' ? inputs : inputs.slice(0, -3)
    const [batch, length] = query.shape
    const shared: AttentionOperands = {
      query: given.sequences(query),
      key: given.sequences(key),
      value: given.sequences(value),
      ...(slope && { slope: given.contiguous(slope) }),
    }
    const sizes = {
      heads,
      scale,
      batch,
      length,
      keyDim: query.shape[2] / heads,
      valueDim: value.shape[2] / heads,
    }
    /** Where an element of the result's tuple goes; if nothing reads it, memory that only this instruction uses. */
    const result = (index: number, shape: Shape): View => {
      const element = elements.find(
        ({ operation }) => operation.kind === 'element' && operation.index === index,
      )
      return element ? this.buffers.viewOf(element) : wholeView(new Buffer(sizeOf(shape), 'float32'), shape)
    }
    let work: Attention
    if (kind === 'attention') {
      const results = { out: result(0, value.shape), logSumExp: result(1, [batch, heads, length]) }
      work = { kind, ...sizes, operands: shared, results }
    } else {
      const [out, logSumExp, outGradient] = inputs.slice(-3)
      const operands = {
        ...shared,
        out: given.sequences(out),
        logSumExp: given.sequences(logSumExp),
        outGradient: given.sequences(outGradient),
      }
      const results = {
        query: result(0, query.shape),
        key: result(1, key.shape),
        value: result(2, value.shape),
        ...(slope && { slope: result(3, [batch, heads]) }),
      }
      work = { kind, ...sizes, operands, results }
    }
    this.add(work, id, given.needs, elements)
  }

  private add(
    work: Work,
    order: number,
    needs: readonly Value[],
    makes: readonly Value[],
  ): LoweredInstruction {
    let microbatch = 0
    for (const made of makes) if (made instanceof Tensor) microbatch = Math.max(microbatch, made.microbatch)
    const { reads, writes } = buffersOf(work)
    const instruction = {
      work,
      reads,
      writes,
      partition: partitionOf(work),
      order,
      microbatch,
      needs,
      makes,
      operations: operationsOf(work, makes),
    }
    this.instructions.push(instruction)
    return instruction
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
