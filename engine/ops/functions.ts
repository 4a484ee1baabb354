/** Activations, normalizations and other functions that are built from primitives. */
import { ShapeError } from '../graph/shape.ts'
import { type Tensor, where } from '../graph/tensor.ts'

/**
 * Exact GELU, x · Φ(x) (Hendrycks & Gimpel 2016), with an error of about 1e-7 · |x|, like PyTorch's in float32: few digits
 * are right below -5, and the result is 0 below -5.5.
 */
export const gelu = (x: Tensor): Tensor => x.mul(x.mul(Math.SQRT1_2).erf().mul(0.5).add(0.5))

/**
 * 1 / (1 + exp(−x)). For x < 0 it computes exp(x) / (1 + exp(x)), so that nothing overflows and both tails are accurate,
 * in the derivative too.
 */
export function sigmoid(x: Tensor): Tensor {
  const isNegative = x.less(0)
  const e = exponentialOfMinus(x, isNegative)
  return where(isNegative, e, 1).div(e.add(1))
}

/** log(1 + exp(x)), without overflow and with full precision in both tails. */
export function softplus(x: Tensor): Tensor {
  const isNegative = x.less(0)
  return where(isNegative, 0, x).add(exponentialOfMinus(x, isNegative).log1p())
}

/** exp(−|x|). Its derivative at 0 is that for x ≥ 0, -1; through abs() it would be 0. */
const exponentialOfMinus = (x: Tensor, isNegative: Tensor): Tensor => where(isNegative, x, x.neg()).exp()

/** max(x, 0). Its derivative at 0 is 0. */
export const relu = (x: Tensor): Tensor => where(x.lessEqual(0), 0, x)

/** exp(x), divided by its sum along the last axis. */
export function softmax(x: Tensor): Tensor {
  const scaled = x.sub(x.max(-1, true).detach()).exp()
  return scaled.mul(scaled.sum(-1, true).reciprocal())
}

/** Normalizes to zero mean and unit variance along the last axis, without scale or bias (Ba et al. 2016). */
export function layerNorm(x: Tensor, epsilon = 1e-5): Tensor {
  const centered = x.sub(x.mean(-1, true))
  return centered.mul(centered.square().mean(-1, true).add(epsilon).rsqrt())
}

/** Normalizes to a root mean square of 1 along the last axis, without scale (Zhang & Sennrich 2019). */
export const rmsNorm = (x: Tensor, epsilon = 1e-6): Tensor =>
  x.mul(x.square().mean(-1, true).add(epsilon).rsqrt())

/** The Euclidean norm of all elements of all tensors, a scalar. If all are 0, its derivatives are 0. */
export function norm(tensors: readonly Tensor[]): Tensor {
  if (tensors.length === 0) throw new ShapeError('norm: no tensors')
  const squares = tensors.map(tensor => tensor.square().sum()).reduce((sum, square) => sum.add(square))
  const isZero = squares.equal(0)
  // Replace 0 before the square root: its derivative there is infinite, and 0 times that is NaN.
  return where(isZero, 0, where(isZero, 1, squares).sqrt())
}
