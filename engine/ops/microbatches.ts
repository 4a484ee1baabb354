import { Trace, inMicrobatch } from '../graph/operations.ts'
import { ShapeError } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'

/** Takes a piece's rows of a tensor whose first axis is the batch's. */
export type RowsOf = (whole: Tensor) => Tensor

/**
 * Means over a batch that goes through `body` in pieces of equal size, or one row more. `body` returns means
 * over a piece, float32 scalars, and takes its rows of the batch's tensors by `part`. A piece runs, and its
 * gradients with it, before the next one does: the temporaries of one are all that memory has to hold.
 */
export function inMicrobatches<Means extends Readonly<Record<string, Tensor>>>(
  pieces: number,
  body: (part: RowsOf) => Means,
): { [Name in keyof Means]: Tensor } {
  if (pieces === 1) return body(whole => whole)
  const sums = new Map<string, Tensor>()
  for (let i = 0; i < pieces; i++) {
    inMicrobatch(i + 1, () => {
      let share = 0
      const means = body(whole => {
        const rows = whole.shape[0]
        if (!(rows >= pieces)) throw new ShapeError(`inPieces: ${rows} rows are no ${pieces} pieces`)
        const [start, end] = [Math.floor((i * rows) / pieces), Math.floor(((i + 1) * rows) / pieces)]
        share = (end - start) / rows
        // A view that all pieces share: their gradients are laid side by side in one of it.
        const shared = inMicrobatch(0, () => whole.reshape(1, ...whole.shape))
        return shared.slice(1, start, end).reshape(end - start, ...whole.shape.slice(1))
      })
      for (const [name, mean] of Object.entries(means))
        sums.set(name, mean.mul(share).add(sums.get(name) ?? 0))
    })
  }
  // What comes after has a stage of its own.
  if (Trace.active) Trace.active.microbatch = pieces + 1
  // The names are those that the body returned.
  return Object.fromEntries(sums) as { [Name in keyof Means]: Tensor }
}
