/** The baselines beside PyTorch and the originals' equations: see golden/schedules.py and golden/baselines.py. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { oneCycle } from '../../baselines/schedules-0.1.ts'
import {
  clampParameters,
  dither,
  lengthAfter,
  microbatchesAfter,
  networkSize,
  rateMultiples,
  safeParameters,
  scalingOf,
  tokensPerBatch,
  weightDecayAfter,
} from '../../baselines/schedules-0.4.ts'
import { memoryLimit } from '../../run/memory.ts'

const project = resolve(import.meta.dirname, '../..')
const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
after(() => rmSync(folder, { recursive: true }))

type Numbered<Value> = [step: number, value: Value][]
type Schedules = {
  oneCycle: Record<string, Numbered<number>>
  multiples: Record<'body' | 'output' | 'positionBias', Numbered<number>>
  networks: { modelScale: number; dim: number; blocks: number; tokensPerBatch: number }[]
  scalings: (ReturnType<typeof scalingOf> & { parameters: number; weightDecays: [number, number][] })[]
  runs: {
    parameters: number
    norm: [scale: number, power: number]
    rows: [length: number, sequences: number, microbatches: number, estimate: number][]
  }[]
}
type Steps = {
  options: string[]
  steps: {
    length: number
    microbatches: number
    loss: number
    loss64: number
    norm: number
    norm64: number
  }[]
}

function readJson(name: string): unknown {
  return JSON.parse(readFileSync(join(project, 'test/golden', name), 'utf8'))
}
// What the scripts beside the files write.
const golden = readJson('schedules.json') as Schedules
const trained = readJson('baselines.json') as Record<string, Steps>

function close(actual: number, expected: number, what: string, tolerance = 1e-9): void {
  assert.ok(
    Math.abs(actual - expected) <= tolerance * Math.abs(expected),
    `${what}: ${actual}, expected ${expected}`,
  )
}

test("0.1: the rates are those of PyTorch's OneCycleLR", () => {
  const options = { rate: 2e-3, warmup: 0.15, divFactor: 100, finalDivFactor: 0.05 }
  for (const [steps, rates] of Object.entries(golden.oneCycle)) {
    for (const [step, rate] of rates) {
      close(oneCycle(step, { ...options, steps: Number(steps) }), rate, `step ${step} of ${steps}`)
    }
  }
  for (const steps of [1, 2, 6, 7, 20]) {
    for (const warmup of [0, 0.15, 0.5, 1]) {
      const rates = Array.from({ length: steps }, (_, step) => oneCycle(step, { ...options, warmup, steps }))
      assert.ok(
        rates.every(rate => rate > 0 && rate <= 2e-3),
        `${steps} steps: ${rates}`,
      )
    }
  }
})

test('0.4: sizes, rates and weight decays are those of the original', () => {
  for (const { modelScale, dim, blocks, tokensPerBatch: tokens } of golden.networks) {
    assert.deepEqual(networkSize(modelScale), { dim, blocks })
    assert.equal(tokensPerBatch(114688, modelScale), tokens)
  }
  for (const { parameters, weightDecays, ...expected } of golden.scalings) {
    const scaling = scalingOf(parameters)
    close(scaling.baseRate, expected.baseRate, 'base rate')
    close(scaling.weightDecayBase, expected.weightDecayBase, 'base of the weight decay')
    close(scaling.gradNormPower, expected.gradNormPower, 'power of the gradient norm')
    close(scaling.gradNormSteps, expected.gradNormSteps, 'scale of the steps')
    for (const [loss, decay] of weightDecays)
      close(weightDecayAfter(loss, scaling, 16), decay, `decay at ${loss}`)
  }
  for (const name of ['body', 'output', 'positionBias'] as const) {
    for (const [step, multiple] of golden.multiples[name]) {
      close(rateMultiples(step, 100)[name], multiple, `${name} at ${step}`)
    }
  }
})

test('0.4: every step of four runs has the batch and the microbatches of the original', () => {
  const growing = { growEvery: 80, longest: 1024 }
  const microbatch = { sampleEvery: 5, rate: 0.1, most: Infinity }
  for (const { parameters, norm, rows } of golden.runs) {
    let [length, estimate, microbatches] = [32, 0, 1]
    rows.forEach(([expectedLength, sequences, expectedMicrobatches, expectedEstimate], step) => {
      const what = `step ${step} at ${parameters}`
      assert.equal(length, expectedLength, what)
      assert.equal(Math.floor(tokensPerBatch(114688, 1) / length), sequences, what)
      assert.equal(microbatches, expectedMicrobatches, what)
      length = lengthAfter(step, length, growing)
      const gradNorm = norm[0] * (step + 1) ** norm[1]
      estimate = microbatchesAfter(step, estimate, { ...microbatch, parameters, gradNorm })
      close(estimate, expectedEstimate, what)
      microbatches = dither(estimate, (step * 0.6180339887498949) % 1)
    })
  }
})

test('0.4: outside of their range the equations see its end, and microbatches have a bound', () => {
  assert.ok(scalingOf(0.48e6).baseRate * 2.62 > 0.03, 'the original diverges here')
  assert.equal(clampParameters(0.48e6), safeParameters.least)
  assert.equal(clampParameters(46e6), 46e6)
  assert.equal(clampParameters(1e10), safeParameters.most)
  assert.deepEqual(networkSize(0.01), { dim: 64, blocks: 1 })
  const schedule = { sampleEvery: 5, rate: 0.1, most: 64, parameters: 46e6, gradNorm: 1000 }
  let microbatches = 0
  for (let step = 0; step < 1000; step++) microbatches = microbatchesAfter(step, microbatches, schedule)
  assert.equal(microbatches, 64)
})

test('dithering: at least 1, else the mean is the fraction', () => {
  const mean = (microbatches: number) =>
    Array.from({ length: 1000 }, (_, i) => dither(microbatches, i / 1000)).reduce((sum, n) => sum + n) / 1000
  close(mean(3.25), 3.25, 'mean')
  assert.equal(mean(0.1), 1)
  assert.equal(mean(2), 2)
})

/** Runs a baseline as its golden run was, to its end. */
function start(version: string, ...more: string[]): string {
  const files = {
    data: 'test/golden/baselines.txt',
    init: `test/golden/baseline-${version}.safetensors`,
    runs: join(folder, 'runs'),
  }
  const command = ['--import', './run/node.js', 'run/start.ts', `baselines/hlb-gpt-${version}.ts`]
  const args = [
    ...command,
    '--device=cpu',
    ...Object.entries(files).flatMap(([name, value]) => [`--${name}`, value]),
    ...trained[version]!.options,
    ...more,
  ]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: project, encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  return stdout
}

/** What a baseline logs at each step of the golden run. */
function train(version: string, ...more: string[]) {
  const log = join(folder, `${version}-${Math.random()}.jsonl`)
  const stdout = start(version, '--log', log, ...more)
  const records = readFileSync(log, 'utf8').trim().split('\n')
  const rows = records.map((line): Record<string, number> => JSON.parse(line))
  return { rows, stdout }
}

const capacity = { most: Infinity, usual: Infinity }

/** The largest difference between two runs' losses. */
const largest = (differences: number[]) => Math.max(...differences.map(Math.abs))

for (const version of ['0.1', '0.4']) {
  test(`${version}: --profile times a microbatch and the update`, () => {
    assert.match(start(version, '--profile'), /\n *ms .* kernel [^]*attention gradient[^]* in all\n$/)
  })

  test(`${version}: twenty steps follow PyTorch, and do so in pieces`, context => {
    const { steps } = trained[version]!
    const whole = train(version)
    assert.equal(whole.rows.length, steps.length)
    const difference = largest(steps.map(({ loss64 }, i) => whole.rows[i]!.train_loss! - loss64))
    context.diagnostic(`the losses differ from PyTorch's by at most ${difference.toExponential(1)}`)
    assert.ok(difference < 1e-4)
    steps.forEach(({ length, microbatches, norm64 }, i) => {
      const row = whole.rows[i]!
      close(row.grad_norm!, norm64, `gradient norm of step ${i}`, 1e-3)
      if (version === '0.4') assert.deepEqual([row.length, row.microbatches], [length, microbatches])
    })

    const taken =
      /^memory +(\S+ \S+) for variables, (\S+ \S+) for a step(?:, its batch in (\d+) microbatches)?;/m
    const [, variables, temporaries, one] = taken.exec(whole.stdout)!
    assert.equal(one, undefined)
    const [stay, split] = [variables, temporaries].map(amount => memoryLimit(amount, { capacity }))
    const half = stay + split / 2
    const pieces = train(version, '--memory', `${half}B`)
    const [, , , number] = taken.exec(pieces.stdout)!
    context.diagnostic(`${number} pieces`)
    assert.ok(Number(number) > 1)
    const apart = largest(pieces.rows.map(({ train_loss }, i) => train_loss! - whole.rows[i]!.train_loss!))
    context.diagnostic(`in pieces the losses differ by at most ${apart.toExponential(1)}`)
    assert.ok(apart < 1e-4)
  })
}
