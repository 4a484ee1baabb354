import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, before, test } from 'node:test'

const project = resolve(import.meta.dirname, '../..')
const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
const textFile = join(folder, 'text.txt')
const command = ['--import', './run/node.js', 'main.ts']
/** A network that trains in a moment. */
const tiny = (
  '--net.dim 24 --net.blocks 1 --net.keyDim 4 --net.ngramRows 16,16,16 --batch.tokens 64 ' +
  `--batch.firstLength 8 --batch.length 16 --evaluation.tokens 64 --device cpu --runs ${join(folder, 'runs')}`
).split(' ')

before(() => writeFileSync(textFile, 'the quick brown fox jumps over the lazy dog. '.repeat(200)))
after(() => rmSync(folder, { recursive: true }))

function run(...args: string[]) {
  return spawnSync(process.execPath, [...command, ...args], { cwd: project, encoding: 'utf8' })
}

test('a tiny run prints a header, a table and a sample, and logs what it evaluates', () => {
  const log = join(folder, 'log.jsonl')
  const args = [
    '--data',
    textFile,
    ...tiny,
    '--steps',
    '40',
    '--sample',
    '30',
    '--prompt',
    'the quick',
    '--log',
    log,
  ]
  const { status, stdout, stderr } = run(...args)
  assert.equal(status, 0, stderr)
  assert.equal(stderr, '', 'nothing but the result in a pipe')
  assert.match(stdout, /^text +text\.txt, 8550 tokens to train on and 450 to validate with$/m)
  assert.match(
    stdout,
    /^backend +CPU( \(.*\))?, \d+ threads, (128|256)-bit WebAssembly; microkernel \d+x\d+/m,
  )
  const rows = stdout.split('\n').filter(line => /^\| *\d/.test(line))
  assert.equal(rows.length, 21)
  assert.match(
    stdout,
    /\|\n-+\nthe quick.{30,}\n$/s,
    'the table is closed, and the sample follows its prompt',
  )
  const records = readFileSync(log, 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  assert.equal(records.length, 21)
  assert.equal(records[20].step, 40)
  assert.equal(records[20].tokens, 40 * 64)
  assert.ok(
    records[20].val_loss < records[0].val_loss - 1,
    `it learns: ${records[0].val_loss} to ${records[20].val_loss}`,
  )
})

test('the same seed gives the same run on any number of threads, another seed another', () => {
  const result = (seed: string, threads: string) => {
    // So many tokens that threads share them.
    const args = ['--batch.tokens', '1024', '--steps', '20', '--seed', seed, '--threads', threads]
    const { stdout } = run('--data', textFile, ...tiny, ...args)
    // What is neither time nor speed.
    const losses = stdout
      .split('\n')
      .filter(line => /^\| *\d/.test(line))
      .map(line => line.split('|').slice(1, 10).join('|'))
    return [...losses, stdout.slice(stdout.lastIndexOf('---'))].join('\n')
  }
  const [one, two, other] = [result('5', '1'), result('5', '2'), result('6', '1')]
  assert.ok(one.length > 500)
  assert.equal(one, two)
  assert.notEqual(one, other)
})

for (const [args, message] of [
  [['--data', join(folder, 'txt.text')], /txt\.text/],
  [['--data', folder], /no text to train on/],
  [['--data', textFile, '--batch.length', '9000'], /9000|9,000/],
  [['--net.dimm', '64'], /--net\.dim\b/],
  [['--net.dim', 'wide'], /net\.dim.*number/],
  [['--threads', '0'], /threads/],
  [['--threads', '1000'], /--threads 1000 is too many/],
  [['--device', 'tpu'], /cpu, gpu/],
  [['--profile', '--repeat', '2'], /--repeat/],
  [['--device', 'cpu', '--precision', 'f16'], /float32/],
] as const) {
  test(`refused in one sentence: ${args.join(' ').replaceAll(folder, '')}`, () => {
    const { status, stdout, stderr } = run(...args)
    assert.equal(status, 1)
    assert.equal(stdout, '')
    assert.match(stderr, message)
    assert.equal(stderr.trim().split('\n').length, 1, stderr)
  })
}

test('the edges of what the options take train as well', () => {
  for (const edges of [
    '--optimizer.warmup 0 --optimizer.decay 0 --batch.growEvery 0 --evaluation.tokens 1 --seed 9007199254740991',
    '--optimizer.warmup 1 --optimizer.decay 1 --batch.growEvery 1e-300 --evaluation.every 1e-300 --net.expand 1',
    '--batch.tokens 16 --batch.firstLength 1000 --net.ngramRows= --topK 1 --temperature 1e-300 --seed 4294968',
  ]) {
    const { status, stdout, stderr } = run('--data', textFile, ...tiny, '--steps', '3', ...edges.split(' '))
    assert.equal(status, 0, stderr)
    assert.equal(stdout.split('\n').filter(line => /^\| *\d/.test(line)).length, 3, stdout)
    assert.doesNotMatch(stdout, /NaN|Infinity/)
  }
})

test('a prompt that the tokenizer cannot take is refused before anything is trained', () => {
  const runs = join(folder, 'unprompted')
  const data = join(folder, 'words.txt')
  writeFileSync(data, 'the quick brown fox jumps over the lazy dog. '.repeat(200))
  const args = ['--tokenizer', 'gpt2', '--prompt', 'x'.repeat(30_000), '--steps', '1']
  const { status, stdout, stderr } = run('--data', data, ...tiny, ...args, '--runs', runs)
  assert.equal(status, 1)
  assert.match(stderr, /^--prompt cannot be made into tokens\. .*\n$/)
  assert.equal(stdout, '')
  assert.ok(!existsSync(runs))
})

test('an empty file is refused', () => {
  const empty = join(folder, 'empty.txt')
  writeFileSync(empty, '')
  const { status, stderr } = run('--data', empty)
  assert.equal(status, 1)
  assert.match(stderr, /empty/)
})

test('--profile prints where the time of a step goes, and leaves no run behind', () => {
  const runs = join(folder, 'none')
  const { status, stdout, stderr } = run('--data', textFile, ...tiny, '--profile', '--runs', runs)
  assert.equal(status, 0, stderr)
  assert.match(
    stdout,
    /^backend +CPU.*[^]*\npeak +\d+ GFLOP\/s\n[^]*\n +ms +% +times +GFLOP\/s +GB\/s +kernel /,
  )
  assert.match(stdout, /\n *\d+\.\d{3} +100\.0 .*in all\n$/)
  assert.ok(!existsSync(runs))
})

test('Ctrl-C ends the training, and the sample follows', async () => {
  const child = spawn(process.execPath, [...command, '--data', textFile, ...tiny, '--seconds', '1000'], {
    cwd: project,
  })
  let output = ''
  let asked = false
  child.stdout.setEncoding('utf8').on('data', text => {
    output += text
    if (!asked && /^\| *\d/m.test(output)) asked = child.kill('SIGINT')
  })
  const code = await new Promise(done => child.on('exit', done))
  assert.equal(code, 130)
  assert.match(
    output,
    /\|\n-+\nThe American people[^]{100,}\n$/,
    'the table is closed, and the sample written',
  )
})
