/** Averages over batches, such as those of the validation text. */
import type { Batch } from '../data/batches.ts'
import { type NDArray, items } from '../engine/index.ts'

/**
 * Averages over batches what `evaluate` returns: means over the rows of one batch. A batch weighs as much as it has
 * rows, so that every row counts the same.
 */
export async function meanOver<Name extends string>(
  batches: Iterable<Batch>,
  evaluate: (batch: Batch) => Promise<Readonly<Record<Name, NDArray>>>,
): Promise<Record<Name, number>> {
  let rows = 0
  const sums: Record<string, number> = {}
  for (const batch of batches) {
    const count = batch.inputs.shape[0]
    rows += count
    for (const [name, mean] of Object.entries<number>(items(await evaluate(batch))))
      sums[name] = (sums[name] ?? 0) + mean * count
  }
  const means = Object.entries(sums).map(([name, sum]) => [name, sum / rows])
  // The names are those that evaluate returns.
  return Object.fromEntries(means) as Record<Name, number>
}
