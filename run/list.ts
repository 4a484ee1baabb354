/** Lists the runs, newest last: the script of "npm run runs". */
import { join } from 'node:path'
import { UserError } from '../common/errors.ts'
import { handleErrors } from './process/handle-errors.ts'
import { type FoundRun, listRuns } from './folders/find-run.ts'
import { filesOf, tidyRun } from './folders/run-files.ts'
import { divergenceIn, evaluationsIn, readRows } from './record/metrics.ts'
import { parseOptions } from './options/options.ts'
import { printable, warn } from '../common/printable.ts'
import { duration } from '../common/progress.ts'

handleErrors()

const { runs } = parseOptions(process.argv.slice(2), {
  summary: 'Lists the runs, newest last. The folder of each has a report.html.',
  flags: {
    runs: {
      type: 'string',
      value: 'FOLDER',
      default: 'runs',
      help: 'the folder that has a folder for each run',
    },
  },
  hyperparameters: {},
})

// No process takes this long between two writes to a file.
const abandoned = 3_600_000

const lines = [['run', 'started', 'done', 'steps', 'time', 'val_loss', 'text']]
for (const run of await listRuns(runs)) {
  const folder = join(runs, run.name)
  await tidyRun(folder, abandoned)
  lines.push((await describe(run)).map(printable))
}
const widths = lines[0].map((_, i) => Math.max(...lines.map(line => (line.length > 2 ? line[i].length : 0))))
if (lines.length === 1) console.log(`There is no run in ${runs} yet.`)
else
  for (const line of lines)
    console.log(
      line
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    )

/** The cells of a run's line; or its name and a sentence, if the run cannot be read. */
async function describe({ name, config, problem = '' }: FoundRun): Promise<string[]> {
  if (!config) return [name, problem]
  const rows = await readRows(filesOf(join(runs, name)).metrics, warn).catch((error: unknown) => {
    if (error instanceof UserError) return error.message
    throw error
  })
  if (typeof rows === 'string') return [name, rows]
  const when = new Date(config.started).toLocaleString('sv').slice(0, 16)
  const text = (config.about.text ?? '').replace(/, \d+ tokens to train on.*/, '')
  const diverged = divergenceIn(rows)
  const last = diverged ?? evaluationsIn(rows).at(-1)
  if (!last) return [name, when, '', '', '', '', text]
  const share = last.done === undefined ? '' : `${Math.floor(100 * last.done)}%`
  const loss = last.valLoss ?? last.trainLoss
  const done = diverged ? 'diverged' : share
  return [name, when, done, String(last.step), duration(last.seconds), loss.toFixed(4), text]
}
