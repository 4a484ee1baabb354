import type { Batch } from '../data/batches.ts'
import { type NDArray, items } from '../engine/index.ts'

/** Means over batches of means over each of them, which `evaluate` finds: a row counts the same in any batch. */
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
  // The names are those of what evaluate finds.
  return Object.fromEntries(means) as Record<Name, number>
}
