import { ShapeError } from '../graph/shape.ts'
import { type Tensor, where } from '../graph/tensor.ts'

/**
 * Exact GELU, x · Φ(x) (Hendrycks & Gimpel 2016), right to about 1e-7 · |x|, as PyTorch's is in float32: below -5 few of
 * its digits are right, and below -5.5 it is 0.
 */
export const gelu = (x: Tensor): Tensor => x.mul(x.mul(Math.SQRT1_2).erf().mul(0.5).add(0.5))

/**
 * 1 / (1 + exp(−x)). For x < 0 it is exp(x) / (1 + exp(x)), so that nothing overflows and both tails are right, also of
 * the slopes.
 */
export function sigmoid(x: Tensor): Tensor {
  const isNegative = x.less(0)
  const e = exponentialOfMinus(x, isNegative)
  return where(isNegative, e, 1).div(e.add(1))
}

/** log(1 + exp(x)), without overflow, and right to full precision in both tails. */
export function softplus(x: Tensor): Tensor {
  const isNegative = x.less(0)
  return where(isNegative, 0, x).add(exponentialOfMinus(x, isNegative).log1p())
}

/** exp(−|x|), whose slope at 0 is that of x ≥ 0: abs() has none there. */
const exponentialOfMinus = (x: Tensor, isNegative: Tensor): Tensor => where(isNegative, x, x.neg()).exp()

/** max(x, 0), with the slope 0 at 0. */
export const relu = (x: Tensor): Tensor => where(x.lessEqual(0), 0, x)

/** exp(x) over its sum along the last axis. */
export function softmax(x: Tensor): Tensor {
  const scaled = x.sub(x.max(-1, true).detach()).exp()
  return scaled.mul(scaled.sum(-1, true).reciprocal())
}

/** Zero mean and unit variance along the last axis, without scale or bias (Ba et al. 2016). */
export function layerNorm(x: Tensor, epsilon = 1e-5): Tensor {
  const centered = x.sub(x.mean(-1, true))
  return centered.mul(centered.square().mean(-1, true).add(epsilon).rsqrt())
}

/** Unit root mean square along the last axis, without scale (Zhang & Sennrich 2019). */
export const rmsNorm = (x: Tensor, epsilon = 1e-6): Tensor =>
  x.mul(x.square().mean(-1, true).add(epsilon).rsqrt())

/** Euclidean norm over all elements of all tensors, a scalar. Where all are 0 its slopes are 0. */
export function norm(tensors: readonly Tensor[]): Tensor {
  if (tensors.length === 0) throw new ShapeError('norm: no tensors')
  const squares = tensors.map(tensor => tensor.square().sum()).reduce((sum, square) => sum.add(square))
  const isZero = squares.equal(0)
  // The square root never sees a 0, where its slope is infinite: 0 times that would be NaN.
  return where(isZero, 0, where(isZero, 1, squares).sqrt())
}
