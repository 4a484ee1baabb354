/** Reverse-mode differentiation: grad(), and the derivative of every primitive. */
import { attentionGradient, plainAttentionGradient } from '../ops/attention.ts'
import { withoutTranspose } from '../graph/movements.ts'
import { reachable } from '../graph/node.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { Tensor, concat, constantValue, full, product, scatterAdd, sumRows, where } from '../graph/tensor.ts'
import { Trace, inMicrobatch } from '../graph/trace.ts'

/** The gradient that a node contributes to one of its inputs. That of a slice covers only part of the input. */
interface Contribution {
  readonly to: Tensor
  readonly gradient: Tensor
  readonly slice?: { readonly axis: number; readonly start: number }
}

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
    const gradient = accumulate(tensor, contributions)
    gradients.set(tensor, gradient)
    for (const contribution of contributionsOf(tensor, gradient, asked)) {
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

/**
 * The nodes that a node passes its gradient to: its inputs, or for a sunk slice its other form, unless that bypasses a
 * tensor that is asked for.
 */
function computedFrom({ inputs, sunk }: Tensor, asked: ReadonlySet<Tensor>): readonly Tensor[] {
  return sunk && sunk.bypassed.isDisjointFrom(asked) ? [sunk.value] : inputs
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

/**
 * The derivative of every primitive: what a node's gradient g contributes to each input. There is no contribution where
 * the derivative is zero by definition (floor, comparisons, conversions to whole numbers, detach). Throws if there is no
 * rule, since the gradient would be lost.
 */
function contributionsOf(tensor: Tensor, g: Tensor, asked: ReadonlySet<Tensor>): Contribution[] {
  const { operation, inputs } = tensor
  const [a, b, c] = inputs
  const to = (input: Tensor, gradient: Tensor): Contribution => ({ to: input, gradient })
  switch (operation.kind) {
    case 'unary':
      switch (operation.name) {
        case 'negate':
          return [to(a, g.neg())]
        case 'abs':
          // 0 at 0 and, as in PyTorch, at NaN.
          return [to(a, where(a.less(0), g.neg(), where(full([], 0).less(a), g, 0)))]
        case 'exp':
          return [to(a, g.mul(tensor))]
        case 'log':
          return [to(a, g.div(a))]
        case 'log1p':
          return [to(a, g.div(a.add(1)))]
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
        case 'power': {
          const power = constantValue(b)
          return power === undefined ? [] : [to(a, g.mul(nextPower(tensor, a, power).mul(power)))]
        }
        case 'maximum':
        case 'minimum': {
          const shared = where(a.equal(b), g.mul(0.5), g)
          const [unlessLess, unlessMore] = [where(a.less(b), 0, shared), where(b.less(a), 0, shared)]
          return operation.name === 'maximum'
            ? [to(a, unlessLess), to(b, unlessMore)]
            : [to(a, unlessMore), to(b, unlessLess)]
        }
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
      // For a transposed operand, contribute to the tensor as it is stored. A new transpose might be the same node as
      // one whose gradient is asked for later.
      const { transposeA, transposeB } = operation
      const [left, right] = [a, b].map(operand =>
        asked.has(operand) ? { stored: operand, transposed: false } : withoutTranspose(operand),
      )
      return [
        to(
          left.stored,
          left.transposed !== transposeA
            ? product(b, transposeB, g, true)
            : product(g, false, b, !transposeB),
        ),
        to(
          right.stored,
          right.transposed !== transposeB
            ? product(g, true, a, transposeA)
            : product(a, !transposeA, g, false),
        ),
      ]
    }
    case 'reshape':
      return [to(a, g.reshape(...a.shape))]
    case 'transpose': {
      const { permutation } = operation
      return [to(a, g.permute(permutation.map((_, axis) => permutation.indexOf(axis))))]
    }
    case 'slice': {
      const [source] = computedFrom(tensor, asked)
      return [source === a ? { to: a, gradient: g, slice: operation } : to(source, g)]
    }
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
    case 'element': {
      // logSumExp, attention's other element, needs no gradient: users do not get it, and no rule here uses it.
      if (a.operation.kind === 'attention' && operation.index === 0) {
        const gradients = attentionGradient(a, a.operation, tensor, g)
        return a.inputs.map((input, i) => to(input, gradients[i]))
      }
      if (a.operation.kind !== 'attentionGradient') throw withoutRule(tensor)
      // It depends on attention's inputs and the gradient of out. Out and logSumExp are functions of these inputs.
      const count = a.inputs.length - 3
      const sources = [...a.inputs.slice(0, count), a.inputs[count + 2]]
      const own = sources.map(ownView)
      const plain = plainAttentionGradient(operation.index, a.operation, own[count], own.slice(0, count))
      const gradients = reverse(plain.mul(g).sum(), own)
      return sources.map((source, i) => to(source, gradients[i]))
    }
    case 'input':
    case 'variable':
    case 'constant':
    case 'iota':
      return []
    case 'attention':
    case 'attentionGradient':
      throw withoutRule(tensor)
    default:
      throw withoutRule(tensor, operation satisfies never)
  }
}

/**
 * x to the power p - 1, given x to the power p. If p - 1 is not exact in float32, as for p = 1/3, its rounding error would
 * be multiplied by log(x), so the given power is divided by x instead.
 */
function nextPower(result: Tensor, x: Tensor, power: number): Tensor {
  if (Math.fround(power - 1) === power - 1 || Math.abs(power) >= 1) return x.pow(power - 1)
  const isInfinite = x.abs().equal(Infinity)
  return where(x.equal(0), Infinity, where(isInfinite, 0, result.div(x)))
}

/** The same tensor as a new node that only one operand uses, for a derivative with respect to that operand. */
const ownView = (tensor: Tensor): Tensor =>
  new Tensor({ kind: 'reshape' }, [tensor], tensor.shape, tensor.dtype)

/** The error for a node whose gradient would be lost. */
function withoutRule({ operation, shape }: Tensor, _never?: never): Error {
  return new Error(
    `grad: there is no rule for the gradient of ${operation.kind} (${showShape(shape)}); detach() what has none`,
  )
}

/** Sums a gradient over the axes along which its tensor was broadcast. */
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
