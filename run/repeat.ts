/** Implements --repeat: runs a script with several seeds and compares the results. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../common/errors.ts'
import type { RunOptions } from './options/flags.ts'
import { dateName } from './folders/new-folder.ts'
import { filesOf } from './folders/run-files.ts'
import { headerText } from './terminal/header.ts'
import { watchInterrupt } from './process/interrupt.ts'
import { type MetricsRow, divergenceIn, evaluationsIn, firstToReach, readRows } from './record/metrics.ts'
import { runChild } from './process/parent.js'

/** Runs this script once for each of --repeat seeds, prints a comparison, and ends the process. */
export async function repeatRun(options: RunOptions): Promise<never> {
  const { repeat, runs, resume, target } = options
  if (resume !== undefined) throw new UserError('--repeat starts new runs: leave it out to resume a run.')
  const base = options.run ?? dateName()
  if (options.seed > Number.MAX_SAFE_INTEGER - repeat + 1)
    throw new UserError(`--seed ${options.seed} leaves no room for ${repeat} seeds: take a smaller one.`)
  const seeds = Array.from({ length: repeat }, (_, i) => options.seed + i)
  const folderOf = (seed: number) => join(runs, `${base}-seed-${seed}`)
  const taken = seeds.map(folderOf).find(folder => existsSync(folder))
  if (taken !== undefined) throw new UserError(`${taken} exists: take another name than --run ${base}.`)

  const interrupt = watchInterrupt()
  interrupt.begin()
  const rowsOf = (seed: number) => readRows(filesOf(folderOf(seed)).metrics, console.error)
  for (const seed of seeds) {
    const own = ['--repeat=1', `--seed=${seed}`, `--run=${base}-seed-${seed}`]
    const code = await runChild(process.execPath, [...process.execArgv, ...process.argv.slice(1), ...own])
    console.log()
    // If one seed diverges, the others still run.
    if (code !== 0 && !(code === 1 && divergenceIn(await rowsOf(seed)))) process.exit(code)
    if (interrupt.requested) process.exit()
  }
  const curves = await Promise.all(seeds.map(rowsOf))
  console.log(summary(curves, target))
  process.exit(curves.some(rows => divergenceIn(rows)) ? 1 : 0)
}

/**
 * A summary of several seeds, from the rows of each: the mean of their last losses, and of the times at which they reached
 * the target. Diverged runs are counted, but their losses are left out.
 */
export function summary(curves: readonly (readonly MetricsRow[])[], target: number | undefined): string {
  const sound = curves.filter(rows => divergenceIn(rows) === undefined)
  const losses = sound.flatMap(rows => evaluationsIn(rows).at(-1)?.valLoss ?? [])
  const diverged =
    sound.length < curves.length ? `${curves.length - sound.length} of ${curves.length} diverged` : ''
  const mean = losses.length > 0 ? meanAndDeviation(losses, 4) : ''
  const entries = {
    [`val_loss of ${losses.length} seeds`]: [mean, diverged].filter(part => part !== '').join('; '),
  }
  if (target !== undefined) {
    const times = curves.flatMap(rows => firstToReach(target, rows)?.seconds ?? [])
    const reached = `${times.length} of ${curves.length} reached it`
    entries[`seconds to ${target}`] = times.length > 0 ? `${meanAndDeviation(times, 1)}; ${reached}` : reached
  }
  return headerText(entries)
}

/** The mean ± the sample standard deviation. */
function meanAndDeviation(values: readonly number[], digits: number): string {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  const deviation = Math.sqrt(squares / Math.max(1, values.length - 1))
  return `${mean.toFixed(digits)} ± ${deviation.toFixed(digits)} (mean ± standard deviation)`
}
