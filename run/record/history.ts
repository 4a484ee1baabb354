/** The rows that a run which goes on had before. */
import { showJson } from '../../common/json.ts'
import { type MetricsRow, readRows } from './metrics.ts'
import type { Notes } from '../checkpoint/notes.ts'

/**
 * The rows of a run that goes on from a checkpoint. Up to there they are the checkpoint's, which has a checksum; where
 * metrics.jsonl says something else, `warn` is told, and the rows after it are left out.
 */
export async function readHistory(
  path: string,
  from: Notes | undefined,
  warn: (message: string) => void,
): Promise<MetricsRow[]> {
  if (!from?.rows) return readRows(path, from && warn)
  const found = await readRows(path)
  const step = from.step
  const until = found.filter(row => row.step <= step)
  if (showJson(until) === showJson(from.rows)) return found
  warn(`${path} is not what the checkpoint of step ${step} says: it is restored from there.`)
  return [...from.rows]
}
