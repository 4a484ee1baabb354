/** Gradient accumulation: a batch goes through a network in several microbatches, so that a step takes less memory. */
import { ShapeError } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'
import { Trace, inMicrobatch } from '../graph/trace.ts'

/** Takes the rows of the current microbatch from a tensor whose first axis is the batch. */
export type RowsOf = (whole: Tensor) => Tensor

/**
 * Means over a batch that goes through `body` in microbatches of equal size, or with one row more. `body` returns means
 * over its microbatch, float32 scalars, and takes its rows of the batch's tensors with `rowsOf`. Each microbatch runs,
 * gradients included, before the next one, so memory holds the temporaries of only one at a time.
 */
export function inMicrobatches<Means extends Readonly<Record<string, Tensor>>>(
  count: number,
  body: (rowsOf: RowsOf) => Means,
): { [Name in keyof Means]: Tensor } {
  if (count === 1) return body(whole => whole)
  const sums = new Map<string, Tensor>()
  for (let i = 0; i < count; i++) {
    inMicrobatch(i + 1, () => {
      let share = 0
      const means = body(whole => {
        const rows = whole.shape[0]
        if (!(rows >= count))
          throw new ShapeError(`inMicrobatches: ${rows} rows are too few for ${count} microbatches`)
        const [start, end] = [Math.floor((i * rows) / count), Math.floor(((i + 1) * rows) / count)]
        share = (end - start) / rows
        // All microbatches slice the same view, so their gradients are concatenated in one tensor.
        const view = inMicrobatch(0, () => whole.reshape(1, ...whole.shape))
        return view.slice(1, start, end).reshape(end - start, ...whole.shape.slice(1))
      })
      for (const [name, mean] of Object.entries(means))
        sums.set(name, mean.mul(share).add(sums.get(name) ?? 0))
    })
  }
  // What the function computes afterwards runs after all microbatches.
  if (Trace.active) Trace.active.microbatch = count + 1
  // The names are those that the body returned.
  return Object.fromEntries(sums) as { [Name in keyof Means]: Tensor }
}
