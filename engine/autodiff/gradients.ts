/** grad(): reverse-mode differentiation of a graph. */
import { type Contribution, computedFrom, contributionsOf } from './derivatives.ts'
import { reachable } from '../graph/node.ts'
import { asGradientOf } from '../graph/origins.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, concat, constantValue, full } from '../graph/tensor.ts'
import { Trace, inMicrobatch } from '../graph/trace.ts'

/**
 * Gradients of a scalar with respect to tensors, by reverse-mode differentiation of the graph. The tensors may be
 * variables and inputs, whose gradients are zeros if the scalar does not depend on them, or anything that the scalar is
 * computed from, views included. Tensors that compute the same from the same inputs are one tensor. To differentiate a
 * gradient with respect to a tensor that is sliced, ask for that tensor in the first grad() too: otherwise the gradient
 * may lack the paths that sunk slices take around it.
 *
 * Throws ShapeError when the loss is not a float32 scalar, when a tensor is not float32 or is a constant, and when a
 * computed tensor is not used by the loss: probably another one was meant.
 */
export function grad(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1 || loss.dtype !== 'float32') {
    throw new ShapeError(
      `grad: the loss must be a float32 scalar, not ${loss.dtype} ${showShape(loss.shape)}`,
    )
  }
  const used = new Set(reachable([loss]))
  tensors.forEach((tensor, i) => checkAsked(tensor, i, used.has(tensor)))
  // Each gradient gets the microbatch of its inputs.
  return inMicrobatch(0, () => reverse(loss, tensors))
}

/** Throws if a gradient of zeros would hide a mistake. */
function checkAsked(tensor: Tensor, index: number, isUsed: boolean): void {
  const { dtype, shape, operation } = tensor
  const by = 'name' in operation ? operation.name : operation.kind
  const what = `grad: tensor ${index} of those asked for, ${dtype} ${showShape(shape)},`
  if (dtype !== 'float32') throw new ShapeError(`${what} has no gradient: only float32 has`)
  if (constantValue(tensor) !== undefined)
    throw new ShapeError(`${what} is a constant, which has no gradient: make it a variable or an input`)
  if (isUsed || operation.kind === 'variable' || operation.kind === 'input') return
  throw new ShapeError(
    `${what} is computed (by ${by}), and the loss is not computed from it: ask for the tensor that was used, ` +
      'not for another like it; if there is none, the gradient is zeros',
  )
}

function reverse(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  const asked = new Set(tensors)
  const needed = dependents(loss, asked)
  const scale = Trace.preferences.scalesLoss ? nearestPower(1 / weightOf(loss)) : 1
  const arrived = new Map<Tensor, Contribution[]>([[loss, [{ to: loss, gradient: full(loss.shape, scale) }]]])
  const gradients = new Map<Tensor, Tensor>()
  // Inputs have smaller numbers. In descending order, all contributions to a node arrive before it is visited.
  for (const tensor of [...needed].sort((a, b) => b.id - a.id)) {
    const contributions = arrived.get(tensor)
    if (!contributions) continue
    // A variable is no line of the user's: its gradient comes from where it is used.
    const origins = [tensor, ...contributions.map(({ gradient }) => gradient)]
    const gradient = asGradientOf(origins, () => accumulate(tensor, contributions))
    gradients.set(tensor, gradient)
    const passedOn = asGradientOf(origins, () => contributionsOf(tensor, gradient, asked, reverse))
    for (const contribution of passedOn) {
      const { to } = contribution
      if (to.dtype !== 'float32' || !needed.has(to)) continue
      const list = arrived.get(to)
      if (list) list.push(contribution)
      else arrived.set(to, [contribution])
    }
  }
  return tensors.map(tensor => gradients.get(tensor)?.mul(1 / scale) ?? full(tensor.shape, 0))
}

/** The weight of a sum's terms in a loss, such as 1/n for a mean; the smallest if there are several. */
function weightOf(loss: Tensor): number {
  const weights = new Map<Tensor, number>()
  // Inputs come first.
  for (const tensor of reachable([loss], node => termsOf(node).terms)) {
    const { factor, terms } = termsOf(tensor)
    const least = terms.reduce((weight, term) => Math.min(weight, weights.get(term) ?? 1), Infinity)
    weights.set(tensor, terms.length > 0 ? factor * least : 1)
  }
  return weights.get(loss) ?? 1
}

/** A node as factor · (the sum of terms); no terms if it is something else. */
function termsOf({ operation, inputs }: Tensor): { factor: number; terms: readonly Tensor[] } {
  if (operation.kind === 'reshape') return { factor: 1, terms: inputs }
  if (operation.kind !== 'binary') return { factor: 1, terms: [] }
  if (operation.name === 'add') return { factor: 1, terms: inputs }
  const factors = inputs.map(constantValue)
  if (operation.name === 'divide' && factors[1])
    return { factor: 1 / Math.abs(factors[1]), terms: [inputs[0]] }
  const factor = operation.name === 'multiply' ? factors.find(value => value !== undefined) : undefined
  if (!factor) return { factor: 1, terms: [] }
  return { factor: Math.abs(factor), terms: [inputs[factors[0] === undefined ? 0 : 1]] }
}

/** The nearest power of two: multiplying by it is exact. */
const nearestPower = (value: number): number => 2 ** Math.round(Math.log2(value))

/** The nodes on the paths from the tensors that are asked for to the loss. */
function dependents(loss: Tensor, asked: ReadonlySet<Tensor>): Set<Tensor> {
  const known = new Map<Tensor, boolean>()
  for (const tensor of reachable([loss, ...asked], node => computedFrom(node, asked))) {
    const depends = computedFrom(tensor, asked).some(input => known.get(input))
    known.set(tensor, depends || asked.has(tensor))
  }
  return new Set([...known].filter(([, depends]) => depends).map(([tensor]) => tensor))
}

/** Sums the gradients that arrive at a node. */
function accumulate(tensor: Tensor, contributions: readonly Contribution[]): Tensor {
  const whole = contributions.flatMap(({ gradient, slice }) => (slice ? [] : [gradient]))
  let pieces = contributions.flatMap(({ gradient, slice }) => (slice ? [{ gradient, ...slice }] : []))
  // Slices that do not overlap, such as those of a split, are concatenated.
  while (pieces.length > 0) {
    const { axis } = pieces[0]
    const row: Tensor[] = []
    let end = 0
    const zeros = (extent: number) =>
      full(
        tensor.shape.map((size, i) => (i === axis ? extent : size)),
        0,
      )
    const placed = new Set<(typeof pieces)[number]>()
    for (const piece of pieces.filter(other => other.axis === axis).sort((a, b) => a.start - b.start)) {
      if (piece.start < end) continue
      if (piece.start > end) row.push(zeros(piece.start - end))
      row.push(piece.gradient)
      end = piece.start + piece.gradient.shape[axis]
      placed.add(piece)
    }
    pieces = pieces.filter(piece => !placed.has(piece))
    if (end < tensor.shape[axis]) row.push(zeros(tensor.shape[axis] - end))
    whole.push(concat(row, axis))
  }
  // In the order of the forward pass, so that chunks can be computed one after the other.
  return whole.reduceRight((sum, gradient) => sum.add(gradient))
}
