/**
 * Runs the GPU's tests, and the engine's on the GPU in each of its precisions: npm run test:gpu [-- OPTIONS], see
 * --help. Where there is no GPU, a driver that computes on the CPU takes its place (see lavapipe.ts).
 */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { UserError } from '../common/errors.ts'
import { handleErrors } from '../run/process/handle-errors.ts'
import { parseOptions } from '../run/options/options.ts'
import { createProgress } from '../common/progress.ts'
import { type Driver, type FoundAdapter, type GpuPrecision, adapterOf, ownDriver } from './support/adapter.ts'
import { lavapipe } from './support/lavapipe.ts'
import { compareLosses } from './support/losses.ts'
import type { NotedError } from './support/tolerance.ts'

handleErrors()

const names: Readonly<Record<GpuPrecision, string>> = {
  f32: 'f32',
  f16: 'f16',
  matrix: 'f16 in subgroup matrices',
}

const options = parseOptions(process.argv.slice(2), {
  summary: "Runs the GPU's tests, and the engine's tests on the GPU.",
  flags: {
    precision: {
      type: 'string',
      choices: Object.keys(names),
      help: "runs the engine's tests in this one alone",
    },
    file: { type: 'string', value: 'NAME', help: 'runs the test files alone whose names have this in them' },
    losses: {
      type: 'integer',
      minimum: 1,
      help: 'instead trains main.ts for so many steps, on the CPU as well',
    },
    batch: { type: 'integer', minimum: 1, default: 2048, help: 'tokens of a batch for --losses' },
    strict: {
      type: 'boolean',
      default: false,
      help: 'fails kernels that index beyond memory, or take what a workgroup shares for zero',
    },
    test: { type: 'string', value: 'PATTERN', help: 'runs the tests alone whose names match this' },
  },
  hyperparameters: {},
})

const folder = import.meta.dirname
const { file = '', precision: onlyPrecision } = options
/** The tests in one of this folder's folders, by their paths from here. */
const filesOf = (name: string) =>
  readdirSync(join(folder, name), { encoding: 'utf8', recursive: true })
    .filter(path => path.endsWith('.test.ts') && path.includes(file))
    .map(path => join(name, path))
const [kernelFiles, engineFiles] = ['gpu', 'engine'].map(filesOf)

const found = await findDriver()
if (found && options.losses !== undefined) await train(found, options.losses)
else if (found) process.exitCode = await testOn(found)

interface Found {
  readonly driver: Driver
  readonly adapter: FoundAdapter
}

/** The GPU, or what takes its place. A sentence where there is neither, which is a failure in CI only. */
async function findDriver(): Promise<Found | undefined> {
  const here = await adapterOf(ownDriver)
  if (here && (here.isReal || isComplete(here))) return { driver: ownDriver, adapter: here }
  const progress = createProgress()
  try {
    const works = async (driver: Driver) => isComplete(await adapterOf(driver))
    const driver = await lavapipe(resolve(folder, '../.cache/lavapipe'), works, progress.update)
    const adapter = await adapterOf(driver)
    if (adapter) return { driver, adapter }
    throw new UserError(
      'The driver in .cache/lavapipe does not work: delete that folder, and it is made anew.',
    )
  } catch (error) {
    progress.clear()
    if (!(error instanceof UserError)) throw error
    console.log(error.message)
    if (process.env.CI) process.exitCode = 1
    return undefined
  } finally {
    progress.clear()
  }
}

function isComplete(adapter: FoundAdapter | undefined): boolean {
  return adapter?.precisions.length === Object.keys(names).length
}

async function train({ driver, adapter }: Found, steps: number): Promise<void> {
  console.log(`${steps} steps of ${options.batch} tokens on the CPU, and on ${adapter.name}`)
  await compareLosses(driver, { hasHalf: adapter.precisions.includes('f16'), steps, tokens: options.batch })
}

async function testOn(found: Found): Promise<number> {
  const { adapter } = found
  console.log(`On ${adapter.name}${adapter.isReal ? '' : ', which computes on the CPU'}`)
  const lines: string[] = []
  let failed = 0
  const count = async (what: string, files: readonly string[], settings: NodeJS.ProcessEnv = {}) => {
    if (files.length === 0) return
    console.log(`\n${what}`)
    const counts = await runTests(files, found, settings)
    failed += counts.failed
    const { passed, skipped, errors } = counts
    lines.push(`${what}: ${passed} passed, ${counts.failed} failed, ${skipped} skipped${errors}`)
  }
  if (onlyPrecision === undefined) await count('kernels', kernelFiles)
  for (const precision of adapter.precisions)
    if (onlyPrecision === undefined || precision === onlyPrecision)
      await count(`engine, ${names[precision]}`, engineFiles, {
        HLB_DEVICE: 'gpu',
        HLB_PRECISION: precision,
      })
  console.log(`\n${lines.join('\n')}`)
  return failed === 0 ? 0 : 1
}

interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
  /** The largest errors, as text. */
  readonly errors: string
}

/** Runs test files. A GPU is each one's in turn; a driver that computes on the CPU compiles kernels in one thread. */
async function runTests(
  files: readonly string[],
  { driver: { node, environment }, adapter }: Found,
  settings: NodeJS.ProcessEnv,
): Promise<Counts> {
  const notes = join(mkdtempSync(join(tmpdir(), 'hlb-gpt-')), 'errors.jsonl')
  // What the runner starts its processes with.
  process.execPath = node
  const stream = run({
    files: files.map(name => `${folder}/${name}`),
    concurrency: adapter.isReal ? 1 : availableParallelism(),
    env: {
      ...process.env,
      ...environment,
      ...settings,
      HLB_ERRORS: notes,
      ...(options.strict && { HLB_STRICT: '1' }),
    },
    ...(options.test === undefined ? {} : { testNamePatterns: new RegExp(options.test) }),
  })
  const counts = { passed: 0, failed: 0, skipped: 0 }
  stream.on('test:summary', ({ file, counts: { tests, passed, skipped } }) => {
    if (file === undefined) Object.assign(counts, { passed, failed: tests - passed - skipped, skipped })
  })
  for await (const text of stream.compose(new spec())) process.stdout.write(text)
  const errors = largestErrors(notes)
  rmSync(dirname(notes), { recursive: true })
  return { ...counts, errors }
}

/** Of each quantity the largest error that the tests have noted, and the bound that it had. */
function largestErrors(file: string): string {
  if (!existsSync(file)) return ''
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  const noted = lines.map((line): NotedError => JSON.parse(line)).sort((a, b) => a.error - b.error)
  const largest = new Map(noted.map(note => [note.quantity, note]))
  const texts = [...largest.values()].map(
    ({ quantity, error, bound }) => `${quantity} ${error.toExponential(1)} of ${bound.toExponential(1)}`,
  )
  return `; largest errors: ${texts.join(', ')}`
}
