// Speed beside the peers, in one run: npm run bench [-- OPTIONS], see --help.
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { UserError } from '../common/errors.ts'
import { handleErrors } from '../run/process/handle-errors.ts'
import { parseOptions } from '../run/options/options.ts'
import { createProgress } from '../common/progress.ts'
import {
  type Measurement,
  type Rival,
  jax,
  measure,
  ours,
  oursOnGpu,
  pyTorch,
  pyTorchOnGpu,
} from './rivals.ts'
import { median, table } from './show.ts'
import { type Work, bytesOf, flopsOf, gpuWorks, nameOf, tokensOf, works } from './work.ts'

handleErrors()
const { rounds, only, threads, device } = parseOptions(process.argv.slice(2), {
  summary:
    'Measures matrix products and training steps of this project, PyTorch and jax-js, in turn, and sampling.',
  flags: {
    rounds: {
      type: 'integer',
      minimum: 1,
      default: 3,
      help: 'how often each rival runs, in a new process; the table has the medians',
    },
    only: {
      type: 'string',
      default: '',
      value: 'NAMES',
      help: 'rows that have one of these in their name: "matmul,latent 128"',
    },
    device: {
      type: 'string',
      choices: ['cpu', 'gpu'],
      default: 'cpu',
      help: 'what to measure on',
    },
    threads: {
      type: 'integer',
      minimum: 1,
      default: availableParallelism(),
      help: 'threads of this project and of PyTorch',
    },
  },
  hyperparameters: {},
})
const parts = only.split(',').map(part => part.trim())
const all = device === 'gpu' ? gpuWorks : works
const chosen = all.filter(work => parts.some(part => nameOf(work).includes(part)))
if (!chosen.length) {
  throw new UserError(
    `--only ${only}: no row has that in its name. The rows:\n  ${all.map(nameOf).join('\n  ')}`,
  )
}

const torch = device === 'gpu' ? await pyTorchOnGpu() : await pyTorch(threads)
const everyone = device === 'gpu' ? [...oursOnGpu.toReversed(), ...torch] : [ours(threads), ...torch, jax]
const rivals = everyone.filter(rival => chosen.some(rival.command))
header(rivals)

/** The measurements of each work by each rival, or why there is none. */
const results = new Map<Work, Map<Rival, Measurement[] | Error>>(chosen.map(work => [work, new Map()]))
await measureAll()
console.log([speeds(), details(), samples()].filter(text => text !== '').join('\n\n'))
const failures = [...results].flatMap(([work, row]) =>
  [...row].flatMap(([rival, result]) => (result instanceof Error ? [{ work, rival, result }] : [])),
)
for (const { work, rival, result } of failures) {
  console.log(`\n${rival.name} failed at ${nameOf(work)}: ${result.message}`)
}
if (failures.some(({ rival }) => rival === rivals[0])) process.exitCode = 1

async function measureAll(): Promise<void> {
  const progress = createProgress()
  const total = rounds * rivals.length * results.size
  let done = 0
  for (let round = 0; round < rounds; round++) {
    for (const [work, row] of results) {
      // Each round begins with another rival, so that none always has the cooler processor.
      for (let i = 0; i < rivals.length; i++) {
        const rival = rivals[(round + i) % rivals.length]
        progress.update(done++ / total, `${nameOf(work)}, ${rival.name}`)
        const command = rival.command(work)
        const before = row.get(rival) ?? []
        if (!command || before instanceof Error) continue
        row.set(
          rival,
          await measure(rival, command).then(
            one => [...before, one],
            (error: Error) => error,
          ),
        )
      }
    }
  }
  progress.clear()
}

function header(rivals: readonly Rival[]): void {
  const model = /^model name\s*: (.*)$/m.exec(cpuInfo())?.[1] ?? cpus()[0]?.model ?? 'unknown processor'
  console.log(
    `${model}, ${availableParallelism()} cores, ${rounds === 1 ? 'one round' : `medians of ${rounds} rounds`}`,
  )
  for (const { description, warning } of rivals) {
    console.log(description)
    if (warning) console.log(`  NUMBERS MEAN NOTHING: ${warning}`)
  }
  if (!torch.length) {
    console.log('PyTorch: not found, left out (Debian: apt-get install python3-torch libopenblas0-pthread)')
  }
  console.log()
}

function cpuInfo(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8')
  } catch {
    return ''
  }
}

/** The median of one number of the measurements, if there are any. */
function middle(
  work: Work,
  rival: Rival,
  pick: (one: Measurement) => number | undefined,
): number | undefined {
  const result = results.get(work)?.get(rival)
  if (!result || result instanceof Error) return undefined
  const numbers = result.map(pick).filter(value => value !== undefined)
  return numbers.length ? median(numbers) : undefined
}

/** GFLOP/s, if it was measured. */
function rate(work: Work, rival: Rival): number | undefined {
  if (work.kind === 'sample') return undefined
  const seconds = middle(work, rival, one => one.seconds)
  return seconds && flopsOf(work) / seconds / 1e9
}

function rateCell(work: Work, rival: Rival): string {
  if (results.get(work)?.get(rival) instanceof Error) return 'failed'
  return rate(work, rival)?.toFixed(1) ?? ''
}

/** GFLOP/s of the fastest repetition of a process, by the same count for all (work.ts), and the ratios. */
function speeds(): string {
  const [us, ...peers] = rivals
  const rows = chosen.filter(work => work.kind !== 'sample')
  if (!rows.length) return ''
  const ratio = (work: Work, peer: Rival) => {
    const [mine, theirs] = [rate(work, us), rate(work, peer)]
    return mine && theirs ? `${(mine / theirs).toFixed(2)}x` : ''
  }
  return table([
    ['GFLOP/s', ...rivals.map(rival => rival.name), ...peers.map(peer => `/ ${peer.name}`)],
    ...rows.map(work => [
      nameOf(work),
      ...rivals.map(rival => rateCell(work, rival)),
      ...peers.map(peer => ratio(work, peer)),
    ]),
  ])
}

/** What else there is to say of the training steps. */
function details(): string {
  const steps = chosen.filter(work => work.kind === 'step')
  const shown = rivals.filter(rival => steps.some(work => middle(work, rival, one => one.seconds)))
  if (!steps.length || !shown.length) return ''
  return table([
    ['step', 'rival', 'ms', 'tokens/s', 'peak memory', 'trace + compile'],
    ...steps.flatMap(work =>
      shown.map(rival => {
        const seconds = middle(work, rival, one => one.seconds)
        const peak = middle(work, rival, one => one.peak_mib)
        const compile = middle(work, rival, one => one.compile_s)
        return [
          nameOf(work),
          rival.name,
          seconds ? (seconds * 1000).toFixed(1) : '',
          seconds ? Math.round(tokensOf(work) / seconds).toLocaleString('en') : '',
          peak ? `${Math.round(peak).toLocaleString('en')} MiB` : '',
          compile === undefined ? '' : `${compile.toFixed(2)} s`,
        ]
      }),
    ),
  ])
}

/**
 * Sampling beside what memory allows: a token needs every parameter once (and one row of the embedding), so
 * as many tokens a second as it takes to read that at the speed of a copy, whose reads and writes both count.
 */
function samples(): string {
  const [us] = rivals
  const rows = chosen.flatMap(work => {
    const seconds = middle(work, us, one => one.seconds)
    const copied = middle(work, us, one => one.copied_bytes_per_s)
    if (work.kind !== 'sample' || !seconds || !copied) return []
    const limit = copied / bytesOf(work)
    return [
      [
        nameOf(work),
        (1 / seconds).toFixed(0),
        limit.toFixed(0),
        `${(1 / seconds / limit).toFixed(2)}x`,
        `${(bytesOf(work) / 1e6).toFixed(0)} MB`,
        `${(copied / 1e9).toFixed(1)} GB/s`,
      ],
    ]
  })
  if (!rows.length) return ''
  return table([['sampling', 'tokens/s', 'limit', '/ limit', 'parameters a token', 'copy'], ...rows])
}
