/** Reads the earlier rows of a resumed run. */
import { showJson } from '../../common/json.ts'
import { type MetricsRow, readRows } from './metrics.ts'
import type { Notes } from '../checkpoint/notes.ts'

/**
 * The rows of a run that resumes from a checkpoint. The checkpoint has its own copy of the rows, with a checksum. If
 * metrics.jsonl differs from it, this calls `warn` and returns the checkpoint's rows.
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
