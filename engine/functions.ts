import type { Tensor } from './tensor.ts'

/** Exact GELU, x · Φ(x) (Hendrycks & Gimpel 2016). */
export const gelu = (x: Tensor): Tensor => x.mul(x.mul(Math.SQRT1_2).erf().mul(0.5).add(0.5))

/** 1 / (1 + exp(−x)), by tanh, which does not overflow. */
export const sigmoid = (x: Tensor): Tensor => x.mul(0.5).tanh().mul(0.5).add(0.5)

/** log(1 + exp(x)), without overflow. */
export const softplus = (x: Tensor): Tensor => x.abs().neg().exp().add(1).log().add(x.maximum(0))

export const relu = (x: Tensor): Tensor => x.maximum(0)

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

/** Euclidean norm over all elements of all tensors, a scalar. */
export const norm = (tensors: readonly Tensor[]): Tensor =>
  tensors
    .map(tensor => tensor.square().sum())
    .reduce((sum, squares) => sum.add(squares))
    .sqrt()
