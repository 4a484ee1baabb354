import { logitsAtOnce } from '../runtime/backend.ts'
import { checkIndices } from '../graph/index-checks.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, arange, binary, concat, where } from '../graph/tensor.ts'

/** The target that is ignored, as in PyTorch: its loss, the gradient of that, and `correct` are 0. */
export const ignoredTarget = -100

/** Losses in nats, and 1 where the target's logit is the largest, else 0. */
export interface CrossEntropy {
  readonly loss: Tensor
  readonly correct: Tensor
}

/**
 * Cross-entropy of logits [..., vocabulary] with int32 targets [...]: −log softmax(logits)[target],
 * for each target, in nats. See CrossEntropy for what it returns, in the targets' shape.
 *
 * A target of -100 is ignored: its loss, its gradient and `correct` are 0. It counts in loss.mean(), which divides by
 * the number of all targets; PyTorch's mean divides by the number of those that are not ignored. Other targets outside
 * of the vocabulary are refused: where they are inputs of the compiled function, or views of them, a call throws
 * RangeError; where they are computed, their loss is NaN.
 */
export function crossEntropy(logits: Tensor, targets: Tensor): CrossEntropy {
  const vocabulary = logits.shape[logits.shape.length - 1]
  if (targets.dtype !== 'int32' || showShape(targets.shape) !== showShape(logits.shape.slice(0, -1))) {
    throw new ShapeError(
      `crossEntropy: targets must be int32 ${showShape(logits.shape.slice(0, -1))}, not ${targets.dtype} ${showShape(targets.shape)}`,
    )
  }
  checkIndices(targets, { by: 'crossEntropy', limit: vocabulary, ignored: ignoredTarget })
  const column = targets.reshape(...targets.shape, 1)
  const isTarget = arange(vocabulary).equal(column)
  // A constant to the gradient, which does not depend on it.
  const largest = logits.max(-1, true).detach()
  const logSum = logits.sub(largest).exp().sum(-1, true).log()
  const chosen = where(isTarget, logits, 0).sum(-1, true)
  // Plus zero, of the kernel that goes through the logits: what is computed of the targets alone would be one more kernel.
  const target = column.add(largest.mul(0).toInt())
  const isInside = target.less(vocabulary).and(binary('less', -1, target))
  const otherwise = where(target.equal(ignoredTarget), 0, NaN)
  return {
    // The difference of two large logits is exact where they are near each other; one plus a small logarithm is not.
    loss: where(isInside, logSum.sub(chosen.sub(largest)), otherwise).reshape(...targets.shape),
    correct: where(isInside.and(largest.lessEqual(chosen)), 1, 0).reshape(...targets.shape),
  }
}

/**
 * crossEntropy(x · weightᵀ, targets) for x [..., n] and weight [vocabulary, n], in chunks of rows.
 * The compiler runs each chunk's forward and backward products together, so the logits of all
 * tokens never exist at once.
 */
export function linearCrossEntropy(x: Tensor, weight: Tensor, targets: Tensor): CrossEntropy {
  const [vocabulary, width] = weight.shape
  if (weight.shape.length !== 2 || x.shape[x.shape.length - 1] !== width) {
    throw new ShapeError(
      `linearCrossEntropy: x ${showShape(x.shape)} and weight ${showShape(weight.shape)} do not fit together`,
    )
  }
  const rows = x.reshape(-1, width)
  const flat = targets.reshape(-1)
  const count = rows.shape[0]
  const chunks = Math.max(1, Math.ceil((count * vocabulary) / logitsAtOnce()))
  // In whole tiles of the backends' products.
  const tile = count / chunks > 1024 ? 384 : 12
  const chunk = Math.ceil(count / chunks / tile) * tile
  const number = Math.ceil(count / chunk)
  // What is left over goes first, as the one that takes the least memory: sums over chunks are in this order.
  const first = count - (number - 1) * chunk
  const parts = Array.from({ length: number }, (_, i) => {
    const [start, end] = [i === 0 ? 0 : first + (i - 1) * chunk, first + i * chunk]
    return crossEntropy(rows.slice(0, start, end).matmul(weight.T), flat.slice(0, start, end))
  })
  return {
    loss: concat(
      parts.map(part => part.loss),
      0,
    ).reshape(...targets.shape),
    correct: concat(
      parts.map(part => part.correct),
      0,
    ).reshape(...targets.shape),
  }
}
