/** Causal attention, and its gradient. */
import type { AttentionOptions } from '../graph/operations.ts'
import { softmax } from './functions.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, arange, node, where } from '../graph/tensor.ts'

/**
 * Causal attention, softmax(scale · q·kᵀ + slope · (j − i)) · v over the keys j ≤ i of each query i.
 *
 * query and key are [batch, length, heads · keyDim]; value and the result are [batch, length, heads · valueDim]. slope,
 * if given, is [heads]: a bias that grows with the distance (ALiBi, Press et al. 2021, but learned). scale defaults to
 * 1/√keyDim. The length × length scores are never stored (Dao et al. 2022), except for second derivatives.
 *
 * Throws ShapeError when shapes or dtypes do not fit together or heads is not a positive whole number, and RangeError when
 * scale is not finite in float32.
 */
export function attention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  { heads = 1, slope, scale }: { heads?: number; slope?: Tensor; scale?: number } = {},
): Tensor {
  const [batch, length, queryWidth] = query.shape
  const width = value.shape[2]
  const operands = [query, key, value, ...(slope ? [slope] : [])]
  const other = operands.find(({ dtype }) => dtype !== 'float32')
  if (other)
    throw new ShapeError(`attention: query, key, value and slope must be float32, not ${other.dtype}`)
  const fits =
    query.shape.length === 3 &&
    Number.isInteger(heads) &&
    heads > 0 &&
    showShape(key.shape) === showShape(query.shape) &&
    showShape(value.shape) === showShape([batch, length, width]) &&
    queryWidth % heads === 0 &&
    width % heads === 0 &&
    (!slope || showShape(slope.shape) === showShape([heads]))
  if (!fits) {
    const shapes = operands.map(({ shape }) => showShape(shape))
    throw new ShapeError(
      `attention: query, key, value${slope ? ', slope' : ''} ${shapes.join(', ')} do not fit together with ${heads} heads`,
    )
  }
  const factor = scale ?? 1 / Math.sqrt(queryWidth / heads)
  if (!Number.isFinite(Math.fround(factor)))
    throw new RangeError(`attention: scale must be finite in float32, not ${factor}`)
  // The kernels mask scores before they scale them, which is wrong only for a scale of zero.
  if (Math.fround(factor) === 0) return attention(query.mul(0), key, value, { heads, slope, scale: 1 })
  const options: AttentionOptions = { heads, scale: factor }
  const both = node({ kind: 'attention', ...options }, operands, [], 'float32')
  return node({ kind: 'element', index: 0 }, [both], value.shape, 'float32')
}

/** Gradients of attention's inputs, given its node (a tuple), its result and the gradient g of that. */
export function attentionGradient(
  both: Tensor,
  { heads, scale }: AttentionOptions,
  out: Tensor,
  g: Tensor,
): Tensor[] {
  const [query, key, value, slope] = both.inputs
  const [batch, length] = query.shape
  const logSumExp = node({ kind: 'element', index: 1 }, [both], [batch, heads, length], 'float32')
  const inputs = [...both.inputs, out, logSumExp, g]
  const all = node({ kind: 'attentionGradient', heads, scale }, inputs, [], 'float32')
  const element = (index: number, shape: readonly number[]) =>
    node({ kind: 'element', index }, [all], shape, 'float32')
  return [
    ...[query, key, value].map(({ shape }, index) => element(index, shape)),
    // The kernel returns the slopes' gradient for each sequence; sum these over the batch.
    ...(slope ? [element(3, [batch, heads]).sum(0)] : []),
  ]
}

/**
 * The gradient of one of attention's inputs, built from primitives so that it can be differentiated again. It stores the
 * scores, [batch, heads, length, length].
 *
 * With P the softmax and dP = g·vᵀ: dV = Pᵀ·g, dS = P ∘ (dP − rowsum(P ∘ dP)), dQ = scale · dS·k, dK = scale · dSᵀ·q,
 * and the slopes' gradient is the sum of dS ∘ (j − i), for each sequence.
 */
export function plainAttentionGradient(
  index: number,
  { heads, scale }: AttentionOptions,
  g: Tensor,
  [query, key, value, slope]: readonly Tensor[],
): Tensor {
  const [batch, length] = query.shape
  const byHead = (x: Tensor) => x.reshape(batch, length, heads, -1).permute([0, 2, 1, 3])
  const joined = (x: Tensor) => x.permute([0, 2, 1, 3]).reshape(batch, length, -1)
  const [q, k, v, dOut] = [query, key, value, g].map(byHead)
  const positions = arange(length)
  const distances = positions.reshape(1, length).sub(positions.reshape(length, 1))
  const scores = q.matmul(k.T).mul(scale)
  const biased = slope ? scores.add(distances.toFloat().mul(slope.reshape(heads, 1, 1))) : scores
  const probabilities = softmax(where(distances.lessEqual(0), biased, -Infinity))
  if (index === 2) return joined(probabilities.T.matmul(dOut))
  const weighted = probabilities.mul(dOut.matmul(v.T))
  const dScores = weighted.sub(probabilities.mul(weighted.sum(-1, true)))
  if (index === 0) return joined(dScores.matmul(k).mul(scale))
  if (index === 1) return joined(dScores.T.matmul(q).mul(scale))
  return dScores.mul(distances.toFloat()).sum(-1).sum(-1)
}
