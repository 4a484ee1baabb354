/** Runs whose loss becomes NaN or infinite: they say so, stop, and keep what is good. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { bytes } from '../../data/tokens/tokenizer.ts'
import { UserError } from '../../common/errors.ts'
import { type RunOptions, runFlags } from '../../run/options/flags.ts'
import { divergenceIn, readRows } from '../../run/record/metrics.ts'
import { parseOptions } from '../../run/options/options.ts'
import { startRun } from '../../run/run.ts'

const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
after(() => rmSync(folder, { recursive: true }))

type Losses = {
  readonly train: (step: number) => number
  readonly validation: (step: number) => number
}

/** Trains no network for ten steps, whose losses are given; as on a GPU they may come late. */
async function train(
  args: readonly string[],
  isLate: boolean,
  { train, validation }: Losses,
  stopAfter = 10,
) {
  const { hyperparameters, ...flags } = parseOptions(['--runs', folder, ...args], {
    summary: '',
    flags: runFlags,
    hyperparameters: {},
  })
  const options: RunOptions & { steps: number } = { ...flags, hyperparameters, steps: 10 }
  const text = new Uint8Array(100)
  let trains = false
  const run = await startRun(options, {
    corpus: {
      name: 'text',
      train: text,
      validation: text,
      tokenizer: bytes,
      bytesPerToken: 1,
      fingerprint: 'f',
    },
    backend: { description: 'none', peakGflops: 1, capacity: { most: Infinity, usual: Infinity } },
    network: {},
    optimizer: {},
    about: async () => {
      trains = true
      return {}
    },
  })
  let steps = 0
  for await (const at of run.steps()) {
    if (at.step >= stopAfter) break
    const step = at.step + 1
    steps++
    const results = { loss: train(step), accuracy: 0, gradNorm: 1 }
    await run.stepped({ results: isLate ? Promise.resolve(results) : results, tokens: 4, flops: 1 })
    if (run.isDue(0.3)) await run.row({ validate: async () => ({ loss: validation(step), accuracy: 0 }) })
  }
  await run.trained()
  return { steps, trains }
}

/** Takes the lock from a run's folder, as the end of its process would. */
function unlock(name: string): void {
  const locks = readdirSync(join(folder, name)).filter(file => file.startsWith('lock-'))
  for (const lock of locks) rmSync(join(folder, name, lock))
}

const nanFrom = (first: number) => (step: number) => (step >= first ? NaN : 1)
const fine = () => 1
const checkpointsOf = (name: string) =>
  readdirSync(join(folder, name, 'checkpoints'))
    .filter(file => file.endsWith('.json'))
    .toSorted()
const rowsOf = (name: string) => readRows(join(folder, name, 'metrics.jsonl'), assert.fail)

for (const isLate of [false, true]) {
  const name = isLate ? 'late' : 'now'
  test(`a training loss that comes ${name} and is NaN ends the run, whose last good checkpoint stays`, async () => {
    const log = join(folder, `${name}.log`)
    const ended = train(['--run', name, '--log', log], isLate, { train: nanFrom(5), validation: fine })
    await assert.rejects(ended, error => {
      assert.ok(error instanceof UserError)
      assert.match(
        error.message,
        /^The training loss is NaN at step 5: the run has diverged\. It stops, since/,
      )
      assert.match(
        error.message,
        new RegExp(`of step 3, with other options, [^\\n]+ --resume ${name} --runs `),
      )
      return true
    })
    assert.deepEqual(checkpointsOf(name), ['step-1.json', 'step-3.json'])
    const last = (await rowsOf(name)).at(-1)
    assert.equal(last?.step, 5)
    assert.equal(last.trainLoss, NaN)
    assert.match(readFileSync(log, 'utf8'), /"step":5,"train_loss":"NaN"/)
    assert.match(readFileSync(join(folder, name, 'report.html'), 'utf8'), /Diverged at step 5/)
  })
}

test('a validation loss that is infinite ends the run', async () => {
  const validation = (step: number) => (step > 3 ? Infinity : 1)
  await assert.rejects(
    train(['--run', 'infinite', '--target', '-5'], true, { train: fine, validation }),
    /^UserError: The validation loss is Infinity at step 6: /,
  )
  assert.deepEqual(checkpointsOf('infinite'), ['step-1.json', 'step-3.json'])
})

test('a run that is stopped just after a loss of NaN keeps the checkpoint before it', async () => {
  const losses = { train: nanFrom(5), validation: fine }
  await assert.rejects(train(['--run', 'stopped'], true, losses, 5), /The training loss is NaN at step 5/)
  assert.deepEqual(checkpointsOf('stopped'), ['step-1.json', 'step-3.json'])
})

test('a perplexity that overflows is no divergence', async () => {
  assert.equal((await train(['--run', 'high'], false, { train: fine, validation: () => 1000 })).steps, 10)
  const rows = await rowsOf('high')
  assert.equal(rows[0].valPerplexity, Infinity)
  assert.equal(divergenceIn(rows), undefined)
})

test('--on-nan go trains to the end, and writes no checkpoint of such a step', async () => {
  const losses = { train: nanFrom(4), validation: nanFrom(4) }
  assert.equal((await train(['--run', 'go', '--on-nan', 'go'], true, losses)).steps, 10)
  assert.deepEqual(checkpointsOf('go'), ['step-1.json', 'step-3.json'])
  const rows = await rowsOf('go')
  assert.equal(divergenceIn(rows)?.step, 4)
  assert.equal(rows.at(-1)?.step, 10)
})

test('--on-nan go takes up its checkpoints once the loss is a number again', async () => {
  const losses = { train: (step: number) => (step === 4 ? NaN : 1), validation: fine }
  await train(['--run', 'again', '--on-nan', 'go'], true, losses)
  assert.deepEqual(checkpointsOf('again'), ['step-10.json', 'step-9.json'])
  assert.equal(divergenceIn(await rowsOf('again')), undefined)
})

test('a run that diverged does not go on as it was, and does with other options', async () => {
  await assert.rejects(train(['--run', 'seeds'], false, { train: nanFrom(5), validation: fine }))
  const before = await rowsOf('seeds')
  unlock('seeds')
  const same = await train(['--resume', 'seeds'], false, { train: fine, validation: fine })
  assert.deepEqual(same, { steps: 0, trains: false })
  assert.deepEqual(await rowsOf('seeds'), before, 'it is still known to have diverged')
  unlock('seeds')
  const other = await train(['--resume', 'seeds', '--seed', '1'], false, { train: fine, validation: fine })
  assert.deepEqual(other, { steps: 7, trains: true })
  assert.equal(divergenceIn(await rowsOf('seeds')), undefined)

  const first = { train: nanFrom(1), validation: fine }
  await assert.rejects(train(['--run', 'none'], false, first), /it has no checkpoint to go on from/)
  unlock('none')
  await assert.rejects(train(['--resume', 'none'], false, first), /no checkpoint to go on from/)
})

test('what is refused leaves no folder', async () => {
  const init = ['--run', 'refused', '--init', join(folder, 'nowhere')]
  await assert.rejects(train(init, false, { train: fine, validation: fine }), UserError)
  assert.ok(!existsSync(join(folder, 'refused')))
})
