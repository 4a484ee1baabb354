/** Where each tensor is in memory, and the views that movements such as slices and transposes are. */
import { baseOf, isMovement } from './fusion-groups.ts'
import { isVariable } from '../graph/node.ts'
import type { VariableNode } from './lowered.ts'
import { Buffer, type View } from './program.ts'
import type { Tensor } from '../graph/tensor.ts'
import { broadcastView, collapse, reshapeView, sliceView, transposeView, wholeView } from './views.ts'

/** Assigns memory to tensors as it is asked for. */
export class BufferAssignment {
  /** The buffers of the variables that have been asked for. */
  readonly variables = new Map<VariableNode, Buffer>()
  private readonly assigned = new Map<Tensor, View>()
  private readonly copies = new Map<Tensor, View>()
  private readonly addCopy: (tensor: Tensor, to: View) => void

  /** addCopy: adds the instruction that copies a tensor to a view. */
  constructor(addCopy: (tensor: Tensor, to: View) => void) {
    this.addCopy = addCopy
  }

  /** The memory of a tensor that is not a movement; a new buffer, if it has none yet. */
  viewOf(tensor: Tensor): View {
    const known = this.assigned.get(tensor)
    if (known) return known
    const buffer = isVariable(tensor) ? this.variable(tensor) : new Buffer(tensor.size, tensor.dtype)
    const view = wholeView(buffer, tensor.shape)
    this.assigned.set(tensor, view)
    return view
  }

  variable(variable: VariableNode): Buffer {
    const buffer = this.variables.get(variable) ?? new Buffer(variable.size, variable.dtype, variable)
    this.variables.set(variable, buffer)
    return buffer
  }

  hasMemory(tensor: Tensor): boolean {
    return this.assigned.has(tensor)
  }

  /** Makes a tensor be computed into a part of other memory. */
  assign(tensor: Tensor, view: View): void {
    this.assigned.set(tensor, view)
  }

  /** A row-major copy of a tensor, which is added if there is none. */
  copyOf(tensor: Tensor): View {
    const known = this.copies.get(tensor)
    if (known) return known
    const view = wholeView(new Buffer(tensor.size, tensor.dtype), tensor.shape)
    this.addCopy(tensor, view)
    this.copies.set(tensor, view)
    return view
  }

  /**
   * A view of a tensor in memory, with any strides. Adds copies where a reshape has no strides. A constant or an iota
   * has no memory: undefined.
   */
  materialize(tensor: Tensor): View | undefined {
    const movements: Tensor[] = []
    let base = tensor
    for (; isMovement(base) && !this.copies.has(base); [base] = base.inputs) movements.push(base)
    const { kind } = base.operation
    let view = this.copies.get(base)
    if (!view && kind !== 'constant' && kind !== 'iota') view = this.viewOf(base)
    for (const movement of movements.toReversed()) {
      if (!view) return undefined
      view = moved(view, movement) ?? reshapeView(this.copyOf(movement.inputs[0]), movement.shape)
    }
    return view
  }

  /** A row-major view of a tensor in memory. Adds a copy where there is none. */
  materializeContiguous(tensor: Tensor): View {
    const view = this.materialize(tensor)
    const dims = view && collapse(view.shape, view.strides)
    return view && (dims?.length === 0 || (dims?.length === 1 && dims[0][1] === 1))
      ? view
      : this.copyOf(tensor)
  }

  /**
   * What a tensor's movements make of a view of the tensor that they start from. Where a reshape has no strides, it adds
   * a copy of the reshape's input and returns undefined.
   */
  applyMovements(tensor: Tensor, base: View): View | undefined {
    const movements: Tensor[] = []
    for (let next = tensor; isMovement(next); [next] = next.inputs) movements.push(next)
    let view: View | undefined = base
    for (const movement of movements.toReversed()) {
      view = moved(view, movement)
      if (!view) {
        this.copyOf(movement.inputs[0])
        return undefined
      }
    }
    return view
  }

  /** What has to be made before a tensor's view can be read: the copy that it is a view of, or else its base. */
  sourceOf(tensor: Tensor): Tensor | Buffer {
    let base = tensor
    while (isMovement(base) && !this.copies.has(base)) [base] = base.inputs
    return this.copies.get(base)?.buffer ?? baseOf(tensor)
  }
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
