/** The files in a run's folder. */
import { join } from 'node:path'
import { isTemporary, removeLeftovers } from '../../common/temporary-files.ts'

/** The paths of the files in a run's folder. */
export const filesOf = (folder: string) => ({
  config: join(folder, 'config.json'),
  metrics: join(folder, 'metrics.jsonl'),
  checkpoints: join(folder, 'checkpoints'),
  sample: join(folder, 'sample.txt'),
  report: join(folder, 'report.html'),
})

/** Removes the temporary files in a run's folder that nothing has been written to for `age` milliseconds. Locks stay. */
export async function tidyRun(folder: string, age: number): Promise<void> {
  const isWanted = (name: string) => isTemporary(name) && !name.startsWith('lock-')
  for (const each of [folder, filesOf(folder).checkpoints]) await removeLeftovers(each, { isWanted, age })
}
