import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { showConfig } from '../../run/record/config.ts'
import { summary } from '../../run/repeat.ts'
import { memoryLimit } from '../../run/memory.ts'
import { main, makeFolder, rowsOf, start } from '../support/command.ts'

const { folder, runs, fresh, again } = makeFolder()
const weights = join(folder, 'weights.safetensors')
const train = [...fresh, '--steps', '30', '--evaluation.every', '0.2']

before(() => {
  const { status, stderr } = main([...train, '--run', 'first', '--prompt', 'the <quick>'])
  assert.equal(status, 0, stderr)
  copyFileSync(join(runs, 'first', 'checkpoints', 'step-30.safetensors'), weights)
})
after(() => rmSync(folder, { recursive: true }))

test('a run leaves its config, metrics, checkpoints, sample and report', () => {
  const names = readdirSync(join(runs, 'first')).toSorted()
  assert.deepEqual(names, ['checkpoints', 'config.json', 'metrics.jsonl', 'report.html', 'sample.txt'])
  const read = (name: string) => readFileSync(join(runs, 'first', name), 'utf8')
  assert.match(read('sample.txt'), /^the <quick>.{20,}\n$/s)
  const config = JSON.parse(read('config.json'))
  assert.equal(config.environment.node, process.version)
  assert.ok(config.arguments.includes('--net.dim=24'))
  const records = read('metrics.jsonl')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  assert.equal(records.length, 6)
  assert.equal(records[5].step, 30)
  assert.equal(records[5].tokens, 30 * 64)
  assert.equal(records[5].done, 1)
})

test('the report stands alone: nothing in it is fetched, and no text of the run becomes markup', () => {
  const report = readFileSync(join(runs, 'first', 'report.html'), 'utf8')
  assert.doesNotMatch(report, /(src|href)=|url\(|@import/)
  assert.match(report, /the &lt;quick&gt;/)
  assert.equal(report.split('</script>').length, 3)
  const data = JSON.parse(/^const data = (.*)$/m.exec(report)![1])
  assert.equal(data.tokens.at(-1), 30 * 64)
  assert.equal(data.validation.length, 6)
})

test('the list of runs tells how far each one is', () => {
  const list = (where: string) =>
    spawnSync(process.execPath, ['run/list.ts', '--runs', where], {
      cwd: resolve(import.meta.dirname, '../..'),
      encoding: 'utf8',
    })
  mkdirSync(join(runs, 'no run'))
  const { stdout, status } = list(runs)
  assert.equal(status, 0)
  assert.match(stdout, /^first +\d{4}-\d\d-\d\d \d\d:\d\d +100% +30 +0:0\d +\d\.\d{4} +text\.txt$/m)
  assert.doesNotMatch(stdout, /no run/)
  // Killed before its first evaluation.
  mkdirSync(join(folder, 'others', 'begun'), { recursive: true })
  copyFileSync(join(runs, 'first', 'config.json'), join(folder, 'others', 'begun', 'config.json'))
  assert.match(list(join(folder, 'others')).stdout, /^begun +\d{4}-\d\d-\d\d \d\d:\d\d +text\.txt$/m)
  assert.match(list(join(folder, 'nowhere')).stdout, /^There is no run in \S+nowhere yet\.\n$/)
})

test('a sample from a run: the run stays as it is, and the same seed gives the same text', () => {
  const before = readdirSync(join(runs, 'first'), { recursive: true }).join()
  const sample = (...more: string[]) => {
    const { status, stdout, stderr } = main([
      ...again,
      '--no-train',
      '--run',
      'first',
      '--sample',
      '40',
      ...more,
    ])
    assert.equal(status, 0, stderr)
    assert.equal(stderr, '')
    return stdout
  }
  const one = sample('--prompt', 'lazy', '--seed', '1', '--temperature', '2')
  assert.match(one, /^lazy/)
  assert.equal(sample('--prompt', 'lazy', '--seed', '1', '--temperature', '2'), one)
  assert.notEqual(sample('--prompt', 'lazy', '--seed', '2', '--temperature', '2'), one)
  const greedy = sample('--prompt', 'lazy', '--temperature', '0')
  assert.equal(sample('--prompt', 'lazy', '--temperature', '2', '--top-k', '1', '--seed', '5'), greedy)
  assert.equal(readdirSync(join(runs, 'first'), { recursive: true }).join(), before)
})

test('a run is one process at a time, and that of nobody when its process is dead', async () => {
  const child = start([...fresh, '--steps', '1000000', '--run', 'busy'])
  await once(child.stdout!, 'data')
  const { status, stdout, stderr } = main([...again, '--resume', 'busy'])
  assert.equal(status, 1)
  assert.equal(stdout, '')
  assert.match(
    stderr,
    new RegExp(`^\\S+busy is in use by process ${child.pid}: wait for it to end, or [^\\n]+\\n$`),
  )
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.ok(readdirSync(join(runs, 'busy')).some(name => name.startsWith('lock-')))
  const freed = main([...again, '--resume', 'busy', '--steps', '1'])
  assert.equal(freed.status, 0, freed.stderr)
  assert.ok(!readdirSync(join(runs, 'busy')).some(name => name.startsWith('lock-')))
})

test('a run by steps goes on by seconds if it is told to', () => {
  const argumentsOf = (): string[] =>
    JSON.parse(readFileSync(join(runs, 'switched', 'config.json'), 'utf8')).arguments
  main([...train, '--run', 'switched'])
  assert.ok(argumentsOf().includes('--steps=30'))
  const { status, stdout } = main([...again, '--resume', 'switched', '--seconds', '0.5'])
  assert.equal(status, 0)
  const seconds = Number(
    /^\|.*\| *(\S+) \|$/m.exec(stdout.split('\n').findLast(line => /^\| *\d/.test(line))!)![1],
  )
  assert.ok(seconds >= 0.45, `${seconds} seconds`)
  assert.ok(argumentsOf().includes('--seconds=0.5'))
  assert.ok(!argumentsOf().some(argument => argument.startsWith('--steps')))
})

test('a saved option that is gone is named, and the run goes on without it', () => {
  main([...train, '--run', 'older'])
  const path = join(runs, 'older', 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8'))
  delete config.checksum
  writeFileSync(path, showConfig({ ...config, arguments: [...config.arguments, '--net.heads=3'] }))
  const { status, stdout, stderr } = main([...again, '--resume', 'older', '--steps', '40'])
  assert.equal(status, 0, stderr)
  assert.equal(stderr, 'The run older has --net.heads=3, which main.ts does not have: it goes on without.\n')
  assert.match(rowsOf(stdout).at(-1)!, /^ *\S+ \| +40 /)
})

test('where memory is short, a batch in pieces gives the same curve', () => {
  const run = (...more: string[]) => {
    const { status, stdout, stderr } = main([...train, '--batch.tokens', '256', ...more])
    assert.equal(status, 0, stderr)
    return stdout
  }
  const pattern =
    /^memory +(\S+ \S+) for variables, (\S+ \S+) for a step(?:, its batch in (\d+) microbatches)?;/m
  const whole = run('--run', 'whole')
  const [, variables, temporaries, one] = pattern.exec(whole)!
  assert.equal(one, undefined)
  const bytes = (amount: string) => memoryLimit(amount, { capacity: { most: Infinity, usual: Infinity } })
  const limit = bytes(variables) + bytes(temporaries) / 2
  const split = run('--run', 'split', '--memory', `${limit}B`)
  assert.ok(Number(pattern.exec(split)![3]) > 1)
  const lossesOf = (name: string) =>
    readFileSync(join(runs, name, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .flatMap(line => {
        const { trainLoss, valLoss, gradNorm }: Record<string, number> = JSON.parse(line)
        return [trainLoss, valLoss, gradNorm]
      })
  const [expected, found] = [lossesOf('whole'), lossesOf('split')]
  assert.equal(found.length, expected.length)
  found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-4, `${value}, not ${expected[i]}`))
  const { status, stderr } = main([...train, '--run', 'none', '--memory', '100kB'])
  assert.equal(status, 1)
  assert.match(stderr, /^100 kB of memory is not enough: [^\n]+\n$/)
  assert.ok(!existsSync(join(runs, 'none')), 'what is refused leaves no folder')
})

test('--target stops there and says when', () => {
  const { stdout, status } = main([...train, '--steps', '200', '--run', 'target', '--target', '2'])
  assert.equal(status, 0)
  const last = Number(rowsOf(stdout).at(-1)!.split('|')[3])
  assert.ok(last <= 2, `stopped at ${last}`)
  assert.ok(
    rowsOf(stdout)
      .slice(0, -1)
      .every(row => Number(row.split('|')[3]) > 2),
  )
  assert.match(stdout, /^val_loss 2 was reached after \d+\.\d seconds, at step \d+\.$/m)
  const missed = main([...train, '--run', 'missed', '--target', '0.001'])
  assert.match(missed.stdout, /^val_loss 0\.001 was not reached: it is \d\.\d{4} after \d+\.\d seconds\.$/m)
})

test('--repeat runs several seeds, and says how much they differ', () => {
  const { stdout, status, stderr } = main([
    ...train,
    '--run',
    'many',
    '--repeat',
    '2',
    '--seed',
    '3',
    '--target',
    '0.001',
  ])
  assert.equal(status, 0, stderr)
  for (const seed of [3, 4]) assert.ok(existsSync(join(runs, `many-seed-${seed}`, 'report.html')))
  assert.match(stdout, /^val_loss of 2 seeds +\d\.\d{4} ± \d\.\d{4} \(mean ± standard deviation\)$/m)
  assert.match(stdout, /^seconds to 0\.001 +0 of 2 reached it$/m)
  const refused = main([...train, '--run', 'many', '--repeat', '2', '--seed', '4'])
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /many-seed-4 exists/)
})

test('the mean and standard deviation of several runs', () => {
  const row = (valLoss: number, seconds: number) => ({ step: 1, tokens: 1, trainLoss: 1, valLoss, seconds })
  const curves = [
    [row(3, 10), row(1, 20)],
    [row(1.5, 14), row(2, 20)],
    [row(3, 10), row(3, 20)],
  ]
  assert.deepEqual(summary(curves, 1.5).split('\n'), [
    'val_loss of 3 seeds  2.0000 ± 1.0000 (mean ± standard deviation)',
    'seconds to 1.5       17.0 ± 4.2 (mean ± standard deviation); 2 of 3 reached it',
  ])
  const diverged = [row(NaN, 5), row(-Infinity, 6)]
  assert.deepEqual(summary([...curves, diverged], 1.5).split('\n'), [
    'val_loss of 3 seeds  2.0000 ± 1.0000 (mean ± standard deviation); 1 of 4 diverged',
    'seconds to 1.5       17.0 ± 4.2 (mean ± standard deviation); 2 of 4 reached it',
  ])
  assert.equal(summary([diverged], undefined), 'val_loss of 0 seeds  1 of 1 diverged')
})

describe('first weights', () => {
  test('are those of the file', () => {
    const { stdout, status, stderr } = main([...train, '--run', 'again', '--init', weights])
    assert.equal(status, 0, stderr)
    const first = Number(rowsOf(stdout)[0].split('|')[2])
    assert.ok(first < 1, `the first loss is ${first}`)
  })

  const refused = (args: string[]) => {
    const { status, stdout, stderr } = main([...train, ...args])
    assert.equal(status, 1)
    assert.equal(stdout, '')
    assert.equal(stderr.trim().split('\n').length, 1, stderr)
    return stderr
  }

  test('of another network are refused', () => {
    assert.match(refused(['--init', weights, '--net.dim', '32']), /embedding\.weight is \[256,24\]/)
    assert.match(refused(['--init', weights, '--net.blocks', '2']), /has no blocks\.1\.norm\.weight/)
    assert.match(
      refused(['--init', weights, '--net.ngramRows', '16']),
      /another network: it has ngrams\.1\.weight, ngrams\.2/,
    )
    assert.match(refused(['--init', join(folder, 'none')]), /There is no file/)
    writeFileSync(join(folder, 'text'), 'x'.repeat(1000))
    assert.match(refused(['--init', join(folder, 'text')]), /not a whole safetensors file/)
  })

  test('what cannot be is refused in one sentence', () => {
    assert.match(refused(['--run', 'first']), /exists: take another name, or go on with it: --resume first/)
    assert.match(refused(['--run', '../up']), /--run takes a name/)
    assert.match(refused(['--resume', 'frist']), /did you mean first\?/)
    assert.match(refused(['--resume', '--runs', join(folder, 'nowhere')]), /There is no run in/)
    assert.match(refused(['--resume', 'first', '--run', 'other']), /leave --run other out/)
    assert.match(refused(['--resume', 'first', '--repeat', '2']), /--repeat starts new runs/)
    assert.match(refused(['--runs', weights]), /cannot be made/)
    assert.match(refused(['--checkpoint', '-1']), /--checkpoint takes a whole number/)
  })
})
