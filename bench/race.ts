// Validation loss against training seconds, PyTorch's and ours: npm run race [-- OPTIONS], see --help.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { loadCorpus } from '../data/corpus.ts'
import { UserError } from '../common/errors.ts'
import { handleErrors } from '../run/process/handle-errors.ts'
import { parseOptions } from '../run/options/options.ts'
import { createProgress } from '../common/progress.ts'
import { findPython } from './rivals.ts'
import { type Curve, plot, table } from './show.ts'

handleErrors()
const { seconds, seeds, targets, threads } = parseOptions(process.argv.slice(2), {
  summary: 'Trains with PyTorch and with main.ts, one after the other, and prints both curves.',
  flags: {
    seconds: {
      type: 'string',
      default: '60,180',
      value: 'LIST',
      help: 'training seconds of the PyTorch runs, each under a schedule of that length',
    },
    seeds: { type: 'integer', minimum: 1, default: 1, help: 'runs of main.ts, from seed 0; the mean counts' },
    targets: {
      type: 'string',
      default: '1.44,1.24',
      value: 'LIST',
      help: 'validation losses to time; those that the PyTorch runs end at are timed anyway',
    },
    threads: { type: 'integer', minimum: 1, default: availableParallelism(), help: 'threads of both' },
  },
  hyperparameters: {},
})

/** One evaluation: as torch_train.py prints it and as main.ts --log writes it. */
interface Evaluation {
  readonly seconds: number
  readonly tokens: number
  readonly val_loss: number
}

/** A run, or the mean of several, with the mark that it has in the plot. */
interface Entrant {
  readonly name: string
  readonly mark: string
  readonly evaluations: readonly Evaluation[]
}

const folder = fileURLToPath(new URL('../.cache/race/', import.meta.url))
const progress = createProgress()
const durations = numbers('seconds', seconds)
const losses = numbers('targets', targets)
const python = await findPython()
if (!python) console.log('PyTorch: not found, so main.ts runs alone (Debian: apt-get install python3-torch)')

await mkdir(folder, { recursive: true })
const files = await writeTexts()
const torch = python ? await torchRuns(python) : []
const ours = meanOf(await ourRuns())
progress.clear()
print([...torch, ours])

/** The corpus as the two files of bytes that torch_train.py reads. */
async function writeTexts(): Promise<{ train: string; validation: string }> {
  const corpus = await loadCorpus({ sequenceLength: 256, report: message => progress.update(0, message) })
  const paths = { train: join(folder, 'train.txt'), validation: join(folder, 'validation.txt') }
  const { train, validation } = corpus
  await writeFile(paths.train, train.slice(0, train.length))
  await writeFile(paths.validation, validation.slice(0, validation.length))
  return paths
}

/** torch_train.py at the best setting found for it, once for each duration. */
async function torchRuns(python: string): Promise<Entrant[]> {
  const entrants: Entrant[] = []
  for (const [i, duration] of durations.entries()) {
    const name = `PyTorch ${duration} s`
    const script = fileURLToPath(new URL('torch_train.py', import.meta.url))
    const setting = ['--lr', '4e-3', '--tokens', '2048', '--threads', String(threads)]
    const evaluations: Evaluation[] = []
    progress.update(0, name)
    await run(
      python,
      [script, 'latent', files.train, files.validation, String(duration), ...setting],
      line => {
        const told = JSON.parse(line) as Partial<Evaluation> & {
          torch?: string
          blas?: string
          warning?: string
        }
        if (told.val_loss === undefined) {
          if (i === 0) progress.print(`PyTorch ${told.torch}, ${told.blas}, ${threads} threads`)
          if (i === 0 && told.warning) progress.print(`  NUMBERS MEAN NOTHING: ${told.warning}`)
          return
        }
        const evaluation = told as Evaluation
        evaluations.push(evaluation)
        progress.update(evaluation.seconds / duration, `${name}: ${evaluation.val_loss.toFixed(3)}`)
      },
    )
    entrants.push({ name, mark: '+x*'[i % 3], evaluations })
  }
  return entrants
}

/** main.ts as it is, once for each seed. */
async function ourRuns(): Promise<Evaluation[][]> {
  const runs: Evaluation[][] = []
  const main = fileURLToPath(new URL('../main.ts', import.meta.url))
  for (let seed = 0; seed < seeds; seed++) {
    const log = join(folder, `seed-${seed}.jsonl`)
    await rm(log, { force: true })
    const args = [
      ...process.execArgv,
      main,
      '--seed',
      String(seed),
      '--threads',
      String(threads),
      '--log',
      log,
    ]
    args.push('--runs', join(folder, 'runs'), '--checkpoint', '0')
    await run(process.execPath, args, line => progress.update(seed / seeds, `ours, seed ${seed}: ${line}`))
    const lines = (await readFile(log, 'utf8')).split('\n').filter(line => line)
    if (!lines.length) throw new UserError(`main.ts wrote no evaluation to ${log}`)
    runs.push(lines.map(line => JSON.parse(line) as Evaluation))
  }
  return runs
}

/** Runs a process to its end, line by line of what it prints. */
async function run(file: string, args: readonly string[], onLine: (line: string) => void): Promise<void> {
  const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1' }
  const child = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  createInterface(child.stdout).on('line', onLine)
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  if (code !== 0) throw new UserError(`${args[0]} ended with ${signal ?? `code ${code}`}`)
}

/** The runs of several seeds as one: evaluation by evaluation, as far as all of them go. */
function meanOf(runs: readonly (readonly Evaluation[])[]): Entrant {
  const count = Math.min(...runs.map(run => run.length))
  const evaluations = Array.from({ length: count }, (_, i) => {
    const mean = (pick: (one: Evaluation) => number) =>
      runs.reduce((sum, run) => sum + pick(run[i]), 0) / runs.length
    return { seconds: mean(e => e.seconds), tokens: mean(e => e.tokens), val_loss: mean(e => e.val_loss) }
  })
  return { name: runs.length > 1 ? `ours (mean of ${runs.length})` : 'ours', mark: 'o', evaluations }
}

/** Seconds at the first evaluation with this loss or a lower one. */
function timeTo({ evaluations }: Entrant, loss: number): string {
  return evaluations.find(evaluation => evaluation.val_loss <= loss)?.seconds.toFixed(1) ?? 'never'
}

function print(entrants: readonly Entrant[]): void {
  const latest = Math.max(...entrants.flatMap(({ evaluations }) => evaluations.map(({ seconds }) => seconds)))
  const times = Array.from({ length: 12 }, (_, i) => ((i + 1) / 12) * latest)
  const lossAt = ({ evaluations }: Entrant, time: number) => {
    const last = evaluations.findLast(evaluation => evaluation.seconds <= time + 0.05)
    const hasEnded = last === evaluations.at(-1) && time > (last?.seconds ?? 0) * 1.05
    return last && !hasEnded ? last.val_loss.toFixed(4) : ''
  }
  console.log('\nValidation loss in nats a byte, at the last evaluation before each time:\n')
  const names = entrants.map(({ name, mark }) => `${mark} ${name}`)
  console.log(
    table([
      ['seconds', ...names],
      ...times.map(time => [time.toFixed(1)].concat(entrants.map(entrant => lossAt(entrant, time)))),
    ]),
  )

  const curves: Curve[] = entrants.map(({ mark, evaluations }) => ({
    mark,
    points: evaluations.map(evaluation => [evaluation.seconds, evaluation.val_loss]),
  }))
  const low = Math.min(...curves.flatMap(({ points }) => points.map(([, loss]) => loss)))
  // What comes before the last half nat of the slowest is steep, and of no interest.
  const high = Math.max(...curves.map(({ points }) => points.at(-1)?.[1] ?? 0)) + 0.5
  console.log(`\n${plot(curves, { low: Math.floor(low * 10) / 10, high: Math.ceil(high * 10) / 10 })}`)

  const ends = torch.map(({ evaluations }) => evaluations.at(-1)?.val_loss ?? Infinity)
  const wanted = [...new Set([...losses, ...ends])].sort((a, b) => b - a)
  console.log('\nSeconds to a loss:\n')
  console.log(
    table([
      ['loss', ...names],
      ...wanted.map(loss => [loss.toFixed(4)].concat(entrants.map(entrant => timeTo(entrant, loss)))),
      ['at the end', ...entrants.map(({ evaluations }) => evaluations.at(-1)?.val_loss.toFixed(4) ?? '')],
    ]),
  )
}

function numbers(option: string, list: string): number[] {
  const values = list.split(',').map(Number)
  if (values.some(value => !(value > 0))) {
    throw new UserError(`--${option} takes positive numbers with commas between them, not "${list}".`)
  }
  return values
}
