/** Cross-entropy losses, of logits and of a linear layer whose logits are never stored all at once. */
import { checkIndices } from '../graph/index-checks.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, arange, binary, concat, where } from '../graph/tensor.ts'
import { Trace } from '../graph/trace.ts'

/** A target that is ignored, as in PyTorch: its loss, its gradient and `correct` are 0. */
export const ignoredTarget = -100

/** Losses in nats; `correct` is 1 where the target's logit is the largest, 0 elsewhere. */
export interface CrossEntropy {
  readonly loss: Tensor
  readonly correct: Tensor
}

/**
 * Cross-entropy of logits [..., vocabulary] with int32 targets [...]: −log softmax(logits)[target], in nats. Returns a
 * CrossEntropy in the shape of the targets.
 *
 * A target of -100 is ignored: its loss, its gradient and `correct` are 0. loss.mean() still divides by the number of
 * all targets; PyTorch's mean divides by the number of those not ignored. Any other target outside of the vocabulary is
 * an error: a call throws RangeError if it comes from an input, directly or through views; if it is computed, its loss
 * is NaN.
 */
export function crossEntropy(logits: Tensor, targets: Tensor): CrossEntropy {
  const vocabulary = logits.shape[logits.shape.length - 1]
  if (targets.dtype !== 'int32' || showShape(targets.shape) !== showShape(logits.shape.slice(0, -1))) {
    throw new ShapeError(
      `crossEntropy: targets must be int32 ${showShape(logits.shape.slice(0, -1))}, not ${targets.dtype} ${showShape(targets.shape)}`,
    )
  }
  checkIndices(
    targets,
    { by: 'crossEntropy', limit: vocabulary, ignored: ignoredTarget },
    Trace.active?.indexChecks,
  )
  const column = targets.reshape(...targets.shape, 1)
  const isTarget = arange(vocabulary).equal(column)
  // Detached, since the gradient does not depend on it.
  const largest = logits.max(-1, true).detach()
  const logSum = logits.sub(largest).exp().sum(-1, true).log()
  const chosen = where(isTarget, logits, 0).sum(-1, true)
  // Adds a zero that the logits' kernel computes: a result of the targets alone would take a kernel of its own.
  const target = column.add(largest.mul(0).toInt())
  const isInside = target.less(vocabulary).and(binary('less', -1, target))
  const otherwise = where(target.equal(ignoredTarget), 0, NaN)
  return {
    // Subtract large logits first: the difference of near numbers is exact, but a sum with a small logarithm rounds.
    loss: where(isInside, logSum.sub(chosen.sub(largest)), otherwise).reshape(...targets.shape),
    correct: where(isInside.and(largest.lessEqual(chosen)), 1, 0).reshape(...targets.shape),
  }
}

/**
 * crossEntropy(x · weightᵀ, targets) for x [..., n] and weight [vocabulary, n], in chunks of rows. The compiler runs the
 * forward and backward products of a chunk together, so the logits of all tokens never exist at once.
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
  const chunks = Math.max(1, Math.ceil((count * vocabulary) / Trace.preferences.logitsAtOnce))
  // Whole tiles of the backends' matrix products.
  const tile = count / chunks > 1024 ? 384 : 12
  const chunk = Math.ceil(count / chunks / tile) * tile
  const chunkCount = Math.ceil(count / chunk)
  // The smaller chunk comes first, since sums over chunks start with its memory.
  const first = count - (chunkCount - 1) * chunk
  const results = Array.from({ length: chunkCount }, (_, i) => {
    const [start, end] = [i === 0 ? 0 : first + (i - 1) * chunk, first + i * chunk]
    return crossEntropy(rows.slice(0, start, end).matmul(weight.T), flat.slice(0, start, end))
  })
  return {
    loss: joined(results.map(({ loss }) => loss)).reshape(...targets.shape),
    correct: joined(results.map(({ correct }) => correct)).reshape(...targets.shape),
  }
}

const joined = (chunks: readonly Tensor[]): Tensor => concat(chunks, 0)
