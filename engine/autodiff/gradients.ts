import { attentionGradient, plainAttentionGradient } from '../ops/attention.ts'
import { scalesLoss } from '../runtime/backend.ts'
import { withoutTranspose } from '../compiler/canonicalize.ts'
import { inMicrobatch, reachable } from '../graph/operations.ts'
import { asGradientOf } from '../graph/origins.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { Tensor, concat, constantValue, full, product, scatterAdd, sumRows, where } from '../graph/tensor.ts'

/** A gradient for one input of a node; one of a slice covers only part of it. */
interface Contribution {
  readonly to: Tensor
  readonly gradient: Tensor
  readonly slice?: { readonly axis: number; readonly start: number }
}

/**
 * Gradients of a scalar with respect to tensors, by reverse-mode differentiation of the graph. They may be
 * variables and inputs, which get zeros where the scalar does not depend on them, or anything that it was
 * computed from, views included; tensors that are computed in the same way from the same ones are one. Of a
 * gradient, one with respect to a tensor that was sliced is whole if the tensor was asked for in both.
 *
 * Throws ShapeError when the loss is no float32 scalar, when one of the tensors is not float32 or is a constant,
 * and when one is computed and the loss is not computed from it: it is likely to be another than the one used.
 */
export function grad(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1 || loss.dtype !== 'float32') {
    throw new ShapeError(
      `grad: the loss must be a float32 scalar, not ${loss.dtype} ${showShape(loss.shape)}`,
    )
  }
  const used = new Set(reachable([loss]))
  tensors.forEach((tensor, i) => checkAsked(tensor, i, used.has(tensor)))
  // Each gradient is of the stage of what it is computed from.
  return inMicrobatch(0, () => reverse(loss, tensors))
}

/** Throws where a gradient of zeros would be a mistake. */
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
  const scale = scalesLoss() ? nearestPower(1 / weightOf(loss)) : 1
  const arrived = new Map<Tensor, Contribution[]>([[loss, [{ to: loss, gradient: full(loss.shape, scale) }]]])
  const gradients = new Map<Tensor, Tensor>()
  // Inputs have smaller numbers: descending, all that arrives at a node has arrived.
  for (const tensor of [...needed].sort((a, b) => b.id - a.id)) {
    const contributions = arrived.get(tensor)
    if (!contributions) continue
    // A variable is no line of the user's: its gradient comes from where it is used.
    const origins = [tensor, ...contributions.map(({ gradient }) => gradient)]
    const gradient = asGradientOf(origins, () => accumulate(tensor, contributions))
    gradients.set(tensor, gradient)
    for (const contribution of asGradientOf(origins, () => contributionsOf(tensor, gradient, asked))) {
      const { to } = contribution
      if (to.dtype !== 'float32' || !needed.has(to)) continue
      const list = arrived.get(to)
      if (list) list.push(contribution)
      else arrived.set(to, [contribution])
    }
  }
  return tensors.map(tensor => gradients.get(tensor)?.mul(1 / scale) ?? full(tensor.shape, 0))
}

/** What a sum counts for in a scalar: 1/n in a mean, and the least of several. */
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

/** What a scalar is a multiple of the sum of; no terms where it is something else. */
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

/** Multiplying by a power of two changes no digit. */
const nearestPower = (value: number): number => 2 ** Math.round(Math.log2(value))

/** The nodes between the tensors that are asked for and the loss. */
function dependents(loss: Tensor, asked: ReadonlySet<Tensor>): Set<Tensor> {
  const known = new Map<Tensor, boolean>()
  for (const tensor of reachable([loss, ...asked], node => computedFrom(node, asked))) {
    const depends = computedFrom(tensor, asked).some(input => known.get(input))
    known.set(tensor, depends || asked.has(tensor))
  }
  return new Set([...known].filter(([, depends]) => depends).map(([tensor]) => tensor))
}

/** What a gradient goes on to from a node: of a slice its other form, unless that goes past one that is asked for. */
function computedFrom({ inputs, sunk }: Tensor, asked: ReadonlySet<Tensor>): readonly Tensor[] {
  return sunk && sunk.bypassed.isDisjointFrom(asked) ? [sunk.value] : inputs
}

function accumulate(tensor: Tensor, contributions: readonly Contribution[]): Tensor {
  const whole = contributions.flatMap(({ gradient, slice }) => (slice ? [] : [gradient]))
  let pieces = contributions.flatMap(({ gradient, slice }) => (slice ? [{ gradient, ...slice }] : []))
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
  // In the order of the forward pass, so that chunks of it can be gone through one by one.
  return whole.reduceRight((sum, gradient) => sum.add(gradient))
}

/**
 * The derivative of every primitive: what a node's gradient g contributes to its inputs. That is nothing where the
 * derivative is zero by definition: of floor, comparisons, conversions to whole numbers, and detach. Throws where
 * there is no rule, rather than lose a gradient.
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
          // 0 at 0, and as in PyTorch of NaN.
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
      // To what an operand is a transpose of, as it is stored there. No transpose is made anew: it might be one
      // whose own gradient is asked for later on.
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
      // logSumExp, attention's other element, is not handed to users, and nothing here asks for its gradient.
      if (a.operation.kind === 'attention' && operation.index === 0) {
        const gradients = attentionGradient(a, a.operation, tensor, g)
        return a.inputs.map((input, i) => to(input, gradients[i]))
      }
      if (a.operation.kind !== 'attentionGradient') throw withoutRule(tensor)
      // What it was computed from: attention's inputs, and the gradient of out. Out and logSumExp follow from these.
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
 * x to the power p - 1, given x to the power p. Where p - 1 is no float32, as of 1/3, the error of rounding it would be
 * multiplied by log(x): such a power is the given one divided by x.
 */
function nextPower(result: Tensor, x: Tensor, power: number): Tensor {
  if (Math.fround(power - 1) === power - 1 || Math.abs(power) >= 1) return x.pow(power - 1)
  const isInfinite = x.abs().equal(Infinity)
  return where(x.equal(0), Infinity, where(isInfinite, 0, result.div(x)))
}

/** The same tensor as a node of its own, which no other way leads to: for derivatives with respect to one operand. */
const ownView = (tensor: Tensor): Tensor =>
  new Tensor({ kind: 'reshape' }, [tensor], tensor.shape, tensor.dtype)

/** An error for a node whose gradient would be lost. */
function withoutRule({ operation, shape }: Tensor, _never?: never): Error {
  return new Error(
    `grad: there is no rule for the gradient of ${operation.kind} (${showShape(shape)}); detach() what has none`,
  )
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
