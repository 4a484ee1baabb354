import { attentionGradient } from './attention.ts'
import { scalesLoss } from './backend.ts'
import { Trace, inStage } from './graph.ts'
import { reachable } from './residuals.ts'
import { ShapeError, showShape } from './shape.ts'
import { type Tensor, concat, constantValue, full, scatterAdd, sumRows, where } from './tensor.ts'

/** A gradient for one input of a node; one of a slice covers only part of it. */
interface Contribution {
  readonly to: Tensor
  readonly gradient: Tensor
  readonly slice?: { readonly axis: number; readonly start: number }
}

/**
 * Gradients of a scalar with respect to tensors, by reverse-mode differentiation of the graph.
 * One that the scalar does not depend on gets zeros. Throws ShapeError when loss is no float32 scalar,
 * or uses a slice of one of the tensors that would have no part in its gradient.
 */
export function grad(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1 || loss.dtype !== 'float32') {
    throw new ShapeError(
      `grad: the loss must be a float32 scalar, not ${loss.dtype} ${showShape(loss.shape)}`,
    )
  }
  // Each gradient is of the stage of what it is computed from.
  return inStage(0, () => reverse(loss, tensors))
}

function reverse(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  for (const tensor of tensors) checkSlices(loss, tensor)
  const needed = dependents(loss, tensors)
  const scale = scalesLoss() ? nearestPower(1 / weightOf(loss)) : 1
  const arrived = new Map<Tensor, Contribution[]>([[loss, [{ to: loss, gradient: full(loss.shape, scale) }]]])
  const gradients = new Map<Tensor, Tensor>()
  // Inputs have smaller numbers: descending, all that arrives at a node has arrived.
  for (const tensor of [...needed].sort((a, b) => b.id - a.id)) {
    const contributions = arrived.get(tensor)
    if (!contributions) continue
    const gradient = accumulate(tensor, contributions)
    gradients.set(tensor, gradient)
    for (const contribution of contributionsOf(tensor, gradient)) {
      const { to } = contribution
      if (to.dtype !== 'float32' || !needed.has(to)) continue
      const list = arrived.get(to)
      if (list) list.push(contribution)
      else arrived.set(to, [contribution])
    }
  }
  return tensors.map(tensor => gradients.get(tensor)?.mul(1 / scale) ?? full(tensor.shape, 0))
}

/** Throws where a gradient would lack what a slice of the tensor contributes. */
function checkSlices(loss: Tensor, tensor: Tensor): void {
  const slices = Trace.active?.slicesOf(tensor) ?? []
  const used = slices.length > 0 ? new Set(reachable([loss])) : undefined
  if (!slices.some(slice => used?.has(slice))) return
  const { dtype, shape } = tensor
  throw new ShapeError(
    `grad: the loss uses a slice of the ${dtype} ${showShape(shape)} whose gradient is asked for, and a slice of ` +
      `a result is computed from slices of its operands; slice x.reshape(1, ...x.shape) along the next axis instead`,
  )
}

/** What a sum counts for in a scalar: 1/n in a mean, and the least of several. */
function weightOf({ operation, inputs }: Tensor): number {
  if (operation.kind === 'reshape') return weightOf(inputs[0])
  if (operation.kind === 'binary' && operation.name === 'add') return Math.min(...inputs.map(weightOf))
  if (operation.kind !== 'binary' || operation.name !== 'multiply') return 1
  const factors = inputs.map(constantValue)
  const other = inputs[factors[0] === undefined ? 0 : 1]
  const factor = factors.find(value => value !== undefined)
  return factor ? Math.abs(factor) * weightOf(other) : 1
}

/** Multiplying by a power of two changes no digit. */
const nearestPower = (value: number): number => 2 ** Math.round(Math.log2(value))

/** The nodes between the tensors and the loss. */
function dependents(loss: Tensor, tensors: readonly Tensor[]): Set<Tensor> {
  const known = new Map<Tensor, boolean>(tensors.map(tensor => [tensor, true]))
  const visit = (tensor: Tensor): boolean => {
    const answer = known.get(tensor)
    if (answer !== undefined) return answer
    // Not some(): every input has to be visited.
    const depends = tensor.inputs.map(visit).includes(true)
    known.set(tensor, depends)
    return depends
  }
  visit(loss)
  for (const tensor of tensors) tensor.inputs.forEach(visit)
  return new Set([...known].filter(([, depends]) => depends).map(([tensor]) => tensor))
}

function accumulate(tensor: Tensor, contributions: readonly Contribution[]): Tensor {
  const whole = contributions.flatMap(({ gradient, slice }) => (slice ? [] : [gradient]))
  const pieces = contributions.flatMap(({ gradient, slice }) => (slice ? [{ gradient, ...slice }] : []))
  // Pieces that do not overlap, such as those of a split, are laid side by side.
  while (pieces.length > 0) {
    const { axis } = pieces[0]
    const row: Tensor[] = []
    let end = 0
    const zeros = (extent: number) =>
      full(
        tensor.shape.map((size, i) => (i === axis ? extent : size)),
        0,
      )
    for (const piece of pieces.filter(other => other.axis === axis).sort((a, b) => a.start - b.start)) {
      if (piece.start < end) continue
      if (piece.start > end) row.push(zeros(piece.start - end))
      row.push(piece.gradient)
      end = piece.start + piece.gradient.shape[axis]
      pieces.splice(pieces.indexOf(piece), 1)
    }
    if (end < tensor.shape[axis]) row.push(zeros(tensor.shape[axis] - end))
    whole.push(concat(row, axis))
  }
  // In the order of the forward pass, so that chunks of it can be gone through one by one.
  return whole.reduceRight((sum, gradient) => sum.add(gradient))
}

/** The derivative of every primitive: what a node's gradient g contributes to its inputs. */
function contributionsOf(tensor: Tensor, g: Tensor): Contribution[] {
  const { operation, inputs } = tensor
  const [a, b, c] = inputs
  const to = (input: Tensor, gradient: Tensor): Contribution => ({ to: input, gradient })
  switch (operation.kind) {
    case 'unary':
      switch (operation.name) {
        case 'negate':
          return [to(a, g.neg())]
        case 'abs':
          return [to(a, where(a.less(0), g.neg(), g))]
        case 'exp':
          return [to(a, g.mul(tensor))]
        case 'log':
          return [to(a, g.div(a))]
        case 'sqrt':
          return [to(a, g.mul(0.5).div(tensor))]
        case 'reciprocal':
          return [to(a, g.mul(tensor.square()).neg())]
        case 'sin':
          return [to(a, g.mul(a.cos()))]
        case 'cos':
          return [to(a, g.mul(a.sin()).neg())]
        case 'tanh':
          return [to(a, g.sub(g.mul(tensor.square())))]
        case 'erf':
          return [to(a, g.mul(a.square().neg().exp()).mul(2 / Math.sqrt(Math.PI)))]
        case 'floor':
        case 'toFloat':
        case 'toInt':
        case 'bitsToUniform':
        case 'detach':
          return []
      }
      break
    case 'binary':
      switch (operation.name) {
        case 'add':
          return [to(a, g), to(b, g)]
        case 'subtract':
          return [to(a, g), to(b, g.neg())]
        case 'multiply':
          return [to(a, g.mul(b)), to(b, g.mul(a))]
        case 'divide':
          return [to(a, g.div(b)), to(b, g.mul(tensor).div(b).neg())]
        case 'maximum':
          return [to(a, where(a.less(b), 0, g)), to(b, where(a.less(b), g, 0))]
        case 'minimum':
          return [to(a, where(b.less(a), 0, g)), to(b, where(b.less(a), g, 0))]
        case 'equal':
        case 'less':
        case 'lessEqual':
        case 'and':
        case 'xor':
        case 'randomBits':
          return []
      }
      break
    case 'where':
      return [to(b, where(a, g, 0)), to(c, where(a, 0, g))]
    case 'reduce': {
      if (operation.name === 'sum') return [to(a, g.broadcastTo(a.shape))]
      // Equal maxima share the gradient.
      const largest = where(a.equal(tensor), 1, full(a.shape, 0))
      return [to(a, largest.mul(g.div(largest.sum(-1, true))))]
    }
    case 'columnSum':
      return [to(a, g.broadcastTo(a.shape))]
    case 'matmul': {
      const left = operation.transposeA ? a.T : a
      const right = operation.transposeB ? b.T : b
      return [
        to(a, operation.transposeA ? right.matmul(g.T) : g.matmul(right.T)),
        to(b, operation.transposeB ? g.T.matmul(left) : left.T.matmul(g)),
      ]
    }
    case 'reshape':
      return [to(a, g.reshape(...a.shape))]
    case 'transpose': {
      const { permutation } = operation
      return [to(a, g.permute(permutation.map((_, axis) => permutation.indexOf(axis))))]
    }
    case 'slice':
      return [{ to: a, gradient: g, slice: operation }]
    case 'concat': {
      let start = 0
      const { axis } = operation
      return inputs.map(input => to(input, g.slice(axis, start, (start += input.shape[axis]))))
    }
    case 'broadcast':
      return [to(a, sumTo(g, a))]
    case 'gather':
      return [to(a, scatterAdd(g, b, a.shape[0]))]
    case 'scatterAdd':
      return [to(a, g.gather(b))]
    case 'element':
      // logSumExp, the other element, is not handed to users.
      if (a.operation.kind === 'attention' && operation.index === 0) {
        const gradients = attentionGradient(a, a.operation, tensor, g)
        return a.inputs.map((input, i) => to(input, gradients[i]))
      }
      break
  }
  return []
}

/** Sums a gradient over the axes along which a tensor was broadcast. */
function sumTo(gradient: Tensor, { shape }: Tensor): Tensor {
  if (shape.every(extent => extent === 1)) return gradient.sum().reshape(...shape)
  const added = gradient.shape.length - shape.length
  let result = gradient
  if (added > 0) {
    const kept = gradient.shape.slice(added)
    result = sumRows(
      gradient.reshape(
        -1,
        kept.reduce((size, extent) => size * extent, 1),
      ),
    ).reshape(...kept)
  }
  shape.forEach((extent, axis) => {
    if (extent === 1 && result.shape[axis] !== 1) result = result.sum(axis, true)
  })
  return result
}
