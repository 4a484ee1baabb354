/** Run folders that somebody else made, that are damaged, or that an early version made: nothing of them is taken unseen. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { cpuBackend, useBackend, array, variable } from '../../engine/index.ts'
import { DivergedError, checkpointsIn } from '../../run/checkpoint/checkpoint.ts'
import { type Config, configOf, showConfig } from '../../run/record/config.ts'
import { UserError } from '../../common/errors.ts'
import { findRun, listRuns } from '../../run/folders/find-run.ts'
import { readHistory } from '../../run/record/history.ts'
import { appendRow, firstToReach, readRows } from '../../run/record/metrics.ts'
import { lastNotes } from '../../run/checkpoint/notes.ts'
import { reportHtml } from '../../run/record/report.ts'
import { resumed } from '../../run/options/resume.ts'
import { scriptOf } from '../../run/options/script.ts'
import { loadWeights } from '../../run/checkpoint/weights.ts'
import { tidyRun } from '../../run/folders/run-files.ts'
import { main, rowsOf } from '../support/command.ts'

const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
after(() => rmSync(folder, { recursive: true }))
const posix = { skip: process.platform === 'win32' && 'not for Windows' }

const config: Config = {
  name: 'one',
  started: '2026-03-31T12:00:00.000Z',
  arguments: ['--steps=8', '--data=book.txt', '--seed=3', '--net.dim=24', '--prompt=a "b" é'],
  environment: { script: 'main.ts', code: '0123456789ab', node: 'v26' },
  about: { text: 'book.txt, 10 tokens to train on', network: '9 parameters' },
}
const rowAt = (step: number) => ({
  epoch: step / 7,
  step,
  trainLoss: 5 / step,
  valLoss: 6 / step,
  seconds: step / 3,
  tokens: 64 * step,
  done: step / 8,
})

/** Makes a run with a checkpoint of step 4 in a folder of runs of its own. */
async function makeRun(where: string, changed: Partial<Config> = {}): Promise<{ runs: string; run: string }> {
  const runs = join(folder, where)
  const run = join(runs, 'one')
  mkdirSync(run, { recursive: true })
  const own = { ...config, ...changed }
  writeFileSync(join(run, 'config.json'), showConfig(own))
  const rows = [1, 2, 4].map(rowAt)
  for (const row of rows) await appendRow(join(run, 'metrics.jsonl'), row)
  const state = {
    network: {},
    optimizer: {},
    at: { step: 4, tokens: 256, seconds: 1.25, flops: 9, done: 0.5 },
  }
  await checkpointsIn(join(run, 'checkpoints'), assert.fail).save(state, { config: own, rows })
  return { runs, run }
}

/** A generator of numbers from 0 to limit - 1, the same each time. */
function numbers(seed: number) {
  let state = seed
  return (limit: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

function flipped(bytes: Buffer, draw: (limit: number) => number): Buffer {
  const at = draw(bytes.length)
  return Buffer.from(bytes.with(at, bytes[at] ^ (1 << draw(8))))
}

const isSentence = (error: unknown) => {
  assert.ok(error instanceof UserError, String(error))
  assert.match(error.message, /^[^\n]+\.$/)
  return true
}

describe('a flipped bit', () => {
  test('in config.json is told of, and what the run is comes from its checkpoint', async () => {
    const { runs, run } = await makeRun('flips')
    const path = join(run, 'config.json')
    const bytes = readFileSync(path)
    const expected = await resumed(['--resume', '--runs', runs], assert.fail)
    assert.deepEqual(expected?.config.arguments, config.arguments)
    const draw = numbers(1)
    for (let i = 0; i < 150; i++) {
      writeFileSync(path, flipped(bytes, draw))
      const warnings: string[] = []
      const found = await resumed(['--resume', '--runs', runs], message => void warnings.push(message))
      assert.deepEqual(found, expected)
      assert.match(
        warnings.join('\n'),
        /^\S+config\.json is [^\n]+: what the checkpoint of step 4 says [^\n]+\.$/,
      )
    }
  })

  test('in metrics.jsonl is told of, and the rows come from the checkpoint', async () => {
    const { run } = await makeRun('history')
    const path = join(run, 'metrics.jsonl')
    const bytes = readFileSync(path)
    const notes = await lastNotes(join(run, 'checkpoints'))
    const expected = await readHistory(path, notes, assert.fail)
    assert.deepEqual(expected, [1, 2, 4].map(rowAt))
    const draw = numbers(2)
    let told = 0
    for (let i = 0; i < 150; i++) {
      writeFileSync(path, flipped(bytes, draw))
      assert.deepEqual(await readHistory(path, notes, () => void told++), expected)
    }
    // A flip that leaves the numbers as they are is no fault: 1.50 for 1.5, or a line feed that is another space.
    assert.ok(told > 140, `${told} of 150`)
  })

  test('in the notes of a checkpoint is found', async () => {
    const { run } = await makeRun('notes')
    const checkpoints = join(run, 'checkpoints')
    const path = join(checkpoints, 'step-4.json')
    const bytes = readFileSync(path)
    const draw = numbers(3)
    for (let i = 0; i < 100; i++) {
      writeFileSync(path, flipped(bytes, draw))
      assert.equal(await lastNotes(checkpoints), undefined)
    }
  })
})

test('a config without a checksum must say what its checkpoint says', async () => {
  const runs = join(folder, 'early')
  cpSync(join(import.meta.dirname, '../old-runs', '2cea44c'), join(runs, 'old'), { recursive: true })
  const path = join(runs, 'old', 'config.json')
  const text = readFileSync(path, 'utf8')
  const expected = await resumed(['--resume', '--runs', runs], assert.fail)
  assert.ok(expected?.saved.includes('--seed=3'))
  writeFileSync(path, text.replace('--seed=3', '--seed=2'))
  const warnings: string[] = []
  const found = await resumed(['--resume', '--runs', runs], message => void warnings.push(message))
  assert.deepEqual(new Set(found?.saved), new Set(expected?.saved))
  assert.match(warnings.join(), /says --seed=2 where the checkpoint of step 6 says --seed=3/)
  for (const [from, to] of [
    ['"environment"', '"envoronment"'],
    ['"arguments": [', '"arguments": [7, '],
    ['"--seed=3"', '"seed"'],
    ['2026-', '20x6-'],
    ['"main.ts"', 'null'],
    ['"about": {', '"about": { "a": 1, '],
    ['{', '[{'],
  ]) {
    writeFileSync(path, text.replace(from, to))
    await assert.rejects(findRun(runs, 'old'), isSentence)
    assert.equal((await listRuns(runs)).length, 1)
  }
})

test('the code of a run is a script of the project, by its name', () => {
  const project = resolve(import.meta.dirname, '../..')
  assert.equal(scriptOf('one', 'main.ts', 'runs'), join(project, 'main.ts'))
  assert.equal(scriptOf('one', 'baselines/hlb-gpt-0.1.ts', '.'), join(project, 'baselines/hlb-gpt-0.1.ts'))
  writeFileSync(join(folder, 'evil.ts'), '')
  const refused = [
    '../../main.ts',
    'run/../main.ts',
    './main.ts',
    join(folder, 'evil.ts'),
    'runs/one/evil.ts',
    'node_modules/a/b.ts',
    'run/node_modules/b.ts',
    '.cache/evil.ts',
    'test/.evil.ts',
    'test\\evil.ts',
    'C:evil.ts',
    'package.json',
    'main.ts/',
    '',
    'data:text/javascript,1.ts',
  ]
  for (const script of refused)
    assert.throws(() => scriptOf('one', script, 'runs'), /no script of this project/)
  assert.throws(
    () => scriptOf('one', 'test/run/main.test.ts', join(project, 'test')),
    /no script of this project/,
  )
  assert.throws(() => scriptOf('one', 'ideas/none.ts', 'runs'), /which is there no more/)
})

test('what writes outside of the folder, or fetches, is not taken from it', async () => {
  const more = [
    ...config.arguments,
    '--log=/tmp/log',
    '--mirror=http://example.org/',
    '--profile=true',
    '--runs=x',
  ]
  const { runs } = await makeRun('writes', { arguments: more })
  const found = await resumed(['--resume', '--runs', runs], assert.fail)
  assert.deepEqual(found?.saved, config.arguments)
  assert.deepEqual(found?.dropped, ['--log=/tmp/log', '--mirror=http://example.org/'])
  const named = await resumed(['--resume', '--runs', runs, '--log', 'mine', '--mirror', 'm'], assert.fail)
  assert.ok(named?.own.includes('mine'))
  assert.deepEqual(named?.dropped, [])
})

describe('the newest run', () => {
  const started = (name: string) => `2026-0${name}-01T00:00:00.000Z`

  test('is the one that was started last, and none that is yet to be started', async () => {
    const { runs, run } = await makeRun('newest', { started: started('5') })
    cpSync(run, join(runs, 'future'), { recursive: true })
    writeFileSync(
      join(runs, 'future', 'config.json'),
      showConfig({ ...config, started: '2999-01-01T00:00:00.000Z' }),
    )
    const warnings: string[] = []
    const found = await findRun(runs, undefined, message => void warnings.push(message))
    assert.equal(found.name, 'one')
    assert.match(warnings.join(), /^The run future says that it was started on 2999-/)
    assert.equal((await findRun(runs, 'future', assert.fail)).name, 'future')
  })

  test('is not guessed where a config cannot be read', async () => {
    const { runs, run } = await makeRun('unclear', { started: started('5') })
    cpSync(run, join(runs, 'other'), { recursive: true })
    const path = join(runs, 'other', 'config.json')
    writeFileSync(path, '{}')
    rmSync(join(runs, 'other', 'checkpoints'), { recursive: true })
    await assert.rejects(
      findRun(runs, undefined),
      /other.config\.json [^\n]+ It may be the newest run: name the one/,
    )
    await assert.rejects(findRun(runs, 'other'), /config\.json does not say when/)
    assert.equal((await findRun(runs, 'one', assert.fail)).name, 'one')
    utimesSync(path, new Date(0), new Date(0))
    assert.equal((await findRun(runs, undefined, assert.fail)).name, 'one')
  })
})

describe('what is no file of its own', posix, () => {
  test('is refused and never waited for', async () => {
    const { runs, run } = await makeRun('pipes')
    const metrics = join(run, 'metrics.jsonl')
    rmSync(metrics)
    spawnSync('mkfifo', [metrics])
    await assert.rejects(readRows(metrics), /is not a regular file but a named pipe/)
    await assert.rejects(appendRow(metrics, rowAt(5)))
    rmSync(metrics)
    symlinkSync(join(folder, 'elsewhere'), metrics)
    await assert.rejects(readRows(metrics), /is a link/)
    await assert.rejects(appendRow(metrics, rowAt(5)))
    assert.ok(!existsSync(join(folder, 'elsewhere')))
    rmSync(metrics)
    mkdirSync(metrics)
    await assert.rejects(readRows(metrics), isSentence)
    assert.deepEqual(await readRows(join(run, 'none')), [])

    const path = join(run, 'config.json')
    rmSync(path)
    spawnSync('mkfifo', [path])
    const [found] = await listRuns(runs)
    assert.match(
      found.problem ?? '',
      /config\.json is not a regular file but a named pipe: what the checkpoint/,
    )
    const checkpoints = join(run, 'checkpoints')
    const state = { network: {}, optimizer: {}, at: { step: 0 } }
    const json = join(checkpoints, 'step-4.json')
    rmSync(json)
    spawnSync('mkfifo', [json])
    await assert.rejects(checkpointsIn(checkpoints, assert.fail).load(state), /named pipe/)
    await assert.rejects(findRun(runs, 'one'), isSentence)
    rmSync(checkpoints, { recursive: true })
    symlinkSync(folder, checkpoints)
    await assert.rejects(checkpointsIn(checkpoints, assert.fail).load(state), /checkpoints is a link/)
  })
})

describe('rows', () => {
  const path = join(folder, 'rows.jsonl')

  test('come back as they were, NaN and Infinity too', async () => {
    const rows = [
      { ...rowAt(1), valLoss: NaN, valPerplexity: Infinity, gradNorm: -Infinity },
      { ...rowAt(2), trainLoss: NaN },
    ]
    for (const row of rows) await appendRow(path, row)
    assert.deepEqual(await readRows(path, assert.fail), rows)
    for (const line of readFileSync(path, 'utf8').trim().split('\n')) assert.doesNotMatch(line, /null|:NaN/)
    assert.equal(firstToReach(9, rows)?.step, 2)
    assert.equal(firstToReach(9, [{ ...rowAt(1), valLoss: -Infinity }, rows[0]]), undefined)
  })

  test('of early versions have null for NaN', async () => {
    writeFileSync(path, '{"step":1,"seconds":1,"tokens":1,"trainLoss":null,"valLoss":null}\n')
    assert.deepEqual(await readRows(path, assert.fail), [
      { step: 1, seconds: 1, tokens: 1, trainLoss: NaN, valLoss: NaN },
    ])
  })

  test('are numbers alone: whatever else a line has, it is left out and told of', async () => {
    const wrong = [
      '{"step":1,"seconds":1,"tokens":1,"trainLoss":"<img src=x onerror=alert(1)>"}',
      '{"step":"1","seconds":1,"tokens":1,"trainLoss":1}',
      '{"step":1.5,"seconds":1,"tokens":1,"trainLoss":1}',
      '{"step":1,"seconds":-1,"tokens":1,"trainLoss":1}',
      '{"step":1,"seconds":1,"tokens":1}',
      '{"step":1,"seconds":1,"tokens":1,"trainLoss":1,"more":{"a":1}}',
      '{"step":1,"seconds":1,"tokens":1,"trainLoss":1,"more":true}',
      '[1,2]',
      'null',
      '{"step":',
    ]
    const right = '{"step":1,"seconds":1,"tokens":1,"trainLoss":1,"another":2}'
    for (const line of wrong) {
      const warnings: string[] = []
      writeFileSync(path, `${line}\n${right}\n{"half`)
      const rows = await readRows(path, message => void warnings.push(message))
      assert.deepEqual(rows, [{ step: 1, seconds: 1, tokens: 1, trainLoss: 1, another: 2 }])
      assert.match(warnings.join(), /^Line 1 of \S+ is damaged and skipped\.$/)
    }
  })
})

test('no text of a run is markup or script in its report', () => {
  const evil = `</script><script>alert(1)</script>'"&\u2028`
  const found = configOf(
    { ...config, about: { [evil]: evil }, environment: { ...config.environment, [evil]: evil } },
    evil,
  )
  assert.ok(typeof found === 'object')
  const rows = [
    { ...rowAt(1), [evil]: 1 },
    { ...rowAt(2), valLoss: NaN },
  ]
  const report = reportHtml({
    config: found,
    options: { [evil]: evil, hyperparameters: { [evil]: evil } },
    rows,
    sample: evil,
  })
  assert.doesNotMatch(report, /alert\(1\)<\/script>/)
  assert.equal(report.split('</script>').length, 3)
  assert.equal(report.split('<script>').length, 3)
  assert.match(report, /<b>Diverged at step 2<\/b>: its validation loss is NaN/)
  assert.match(report, /Validation loss <b>6\.0000/)
  assert.deepEqual(JSON.parse(/^const data = (.*)$/m.exec(report)?.[1] ?? '').validation, [6, null])
})

test('what a killed process left half written goes when it is old, or nobody else writes there', async () => {
  const id = '01234567-89ab-cdef-0123-456789abcdef'
  const names = [`config.json.${id}.part`, `lock-a-1.${id}.part`, 'other.part', 'config.json']
  const where = join(folder, 'parts')
  mkdirSync(where)
  for (const name of names) writeFileSync(join(where, name), '')
  await tidyRun(where, 3_600_000)
  assert.deepEqual(readdirSync(where).toSorted(), names.toSorted())
  await tidyRun(where, 0)
  assert.deepEqual(readdirSync(where).toSorted(), names.slice(1).toSorted())
})

describe('checkpoints', () => {
  before(async () => useBackend(await cpuBackend({ threads: 1 })))
  const weight = (value: number) => variable(array(Float32Array.of(value, 2)))
  const at = (step: number) => ({ step, tokens: step, seconds: 1, flops: 1 })

  test('of a larger network are refused, and what is left over is named', async () => {
    const where = join(folder, 'larger')
    const optimizer = { a: weight(5), b: weight(6) }
    await Promise.all([optimizer.a.read(), optimizer.b.read()])
    await checkpointsIn(where, assert.fail).save(
      { network: { a: weight(1), b: weight(2) }, optimizer, at: at(3) },
      {},
    )
    const load = (network: object, others: object) =>
      checkpointsIn(where, assert.fail).load({ network: { ...network }, optimizer: { ...others }, at: at(0) })
    const file = join(where, 'step-3.safetensors')
    const [a, b] = [weight(0), weight(0)]
    await assert.rejects(load({ a }, { a, b }), /step-3\.safetensors is of another network: it has b, which/)
    await assert.rejects(load({ a, b }, { a }), /it has optimizer\.b, which/)
    await assert.rejects(loadWeights(file, { a }), /it has b, which/)
    assert.deepEqual([...(await a.read()).data], [0, 2], 'nothing was written')
    assert.ok(await load({ a, b }, {}), 'a sample leaves the optimizer alone')
    await loadWeights(file, { a, b })
    assert.deepEqual([...(await a.read()).data], [1, 2])
  })

  test('never hold NaN: the one before stays', async () => {
    const where = join(folder, 'nan')
    const checkpoints = checkpointsIn(where, assert.fail)
    await checkpoints.save({ network: { a: weight(1) }, optimizer: {}, at: at(1) }, {})
    const save = checkpoints.save({ network: { a: weight(NaN) }, optimizer: {}, at: at(2) }, {})
    await assert.rejects(save, new DivergedError('a has NaN in it'))
    assert.deepEqual(readdirSync(where).toSorted(), ['step-1.json', 'step-1.safetensors'])
    rmSync(where, { recursive: true })
    assert.equal(checkpoints.last, undefined, 'what is gone is not said to be whole')
  })
})

test('a run of an early version goes on, with the losses that it would have had, and is sampled from', () => {
  const runs = join(folder, 'old')
  cpSync(join(import.meta.dirname, '../old-runs', '2cea44c'), join(runs, '2cea44c'), { recursive: true })
  const { status, stdout, stderr } = main(['--resume', '--runs', runs])
  assert.equal(status, 0, stderr)
  assert.match(stderr, /^The code has changed since \S+ was started: it may not go on as it would have\.\n$/)
  const row = rowsOf(stdout).at(-1)?.split('|').map(Number) ?? []
  assert.equal(row[1], 8)
  assert.ok(Math.abs(row[2] - 5.589791) < 2e-3 && Math.abs(row[3] - 5.480499) < 2e-3, `${row}`)
  const sample = main(['--no-train', '--runs', runs, '--sample', '9', '--prompt', 'lazy'])
  assert.equal(sample.status, 0, sample.stderr)
  assert.match(sample.stdout, /^lazy/)
})
