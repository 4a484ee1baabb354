/** The derivative of every primitive. */
import { attentionGradient, plainAttentionGradient } from '../ops/attention.ts'
import { withoutTranspose } from '../graph/movements.ts'
import { showShape } from '../graph/shape.ts'
import { Tensor, constantValue, full, product, scatterAdd, sumRows, where } from '../graph/tensor.ts'

/** The gradient that a node contributes to one of its inputs. That of a slice covers only part of the input. */
export interface Contribution {
  readonly to: Tensor
  readonly gradient: Tensor
  readonly slice?: { readonly axis: number; readonly start: number }
}

/**
 * The nodes that a node passes its gradient to: its inputs, or for a sunk slice its other form, unless that bypasses a
 * tensor that is asked for.
 */
export function computedFrom({ inputs, sunk }: Tensor, asked: ReadonlySet<Tensor>): readonly Tensor[] {
  return sunk && sunk.bypassed.isDisjointFrom(asked) ? [sunk.value] : inputs
}

/**
 * The derivative of every primitive: what a node's gradient g contributes to each input. There is no contribution where
 * the derivative is zero by definition (floor, comparisons, conversions to whole numbers, detach). Throws if there is no
 * rule, since the gradient would be lost. asked: the tensors whose gradients are wanted; differentiate: computes gradients
 * of a scalar, for second derivatives.
 */
export function contributionsOf(
  tensor: Tensor,
  g: Tensor,
  asked: ReadonlySet<Tensor>,
  differentiate: (loss: Tensor, tensors: readonly Tensor[]) => Tensor[],
): Contribution[] {
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
          if (power === undefined) throw withoutRule(tensor)
          return [to(a, g.mul(nextPower(tensor, a, power).mul(power)))]
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
      // Its inputs are attention's, then out, logSumExp and the gradient of out. Out and logSumExp depend on attention's.
      const operands = [...a.inputs.slice(0, -3), a.inputs[a.inputs.length - 1]]
      const own = operands.map(ownView)
      const plain = plainAttentionGradient(
        operation.index,
        a.operation,
        own[own.length - 1],
        own.slice(0, -1),
      )
      const gradients = differentiate(plain.mul(g).sum(), own)
      return operands.map((operand, i) => to(operand, gradients[i]))
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
