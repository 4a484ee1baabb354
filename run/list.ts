/** What "npm run runs" prints: a line for each run, the newest last. */
import { join } from 'node:path'
import { handleErrors } from './errors.ts'
import { type Config, filesOf, listRuns } from './folders.ts'
import { evaluationsIn, readRows } from './metrics.ts'
import { parseOptions } from './options.ts'
import { duration } from './progress.ts'

handleErrors()

const { runs } = parseOptions(process.argv.slice(2), {
  summary: 'Lists the runs, the newest last. Each has a report.html in its folder.',
  flags: { runs: { type: 'string', value: 'FOLDER', default: 'runs', help: 'where each run has a folder' } },
  hyperparameters: {},
})

const lines = [['run', 'started', 'done', 'steps', 'time', 'val_loss', 'text']]
for (const run of await listRuns(runs)) lines.push(await describe(run))
const widths = lines[0].map((_, i) => Math.max(...lines.map(line => line[i].length)))
if (lines.length === 1) console.log(`There is no run in ${runs} yet.`)
else
  for (const line of lines)
    console.log(
      line
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    )

async function describe({ name, started, about }: Config): Promise<string[]> {
  const last = evaluationsIn(await readRows(filesOf(join(runs, name)).metrics)).at(-1)
  const when = new Date(started).toLocaleString('sv').slice(0, 16)
  const text = (about.text ?? '').replace(/, \d+ tokens to train on.*/, '')
  if (!last) return [name, when, '', '', '', '', text]
  const done = last.done === undefined ? '' : `${Math.floor(100 * last.done)}%`
  return [name, when, done, String(last.step), duration(last.seconds), last.valLoss.toFixed(4), text]
}
