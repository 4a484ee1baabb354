import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { checkpointsOf, endOrKill, main, makeFolder, rowsOf, start } from '../support/command.ts'

const { folder, runs, fresh, again } = makeFolder()
const train = [...fresh, '--steps', '120', '--evaluation.every', '0.1']
let uninterrupted: { rows: string[]; hash: string; sample: string }

const result = (name: string, stdout: string) => ({
  rows: rowsOf(stdout),
  hash: checkpointsOf(join(runs, name)).hash,
  sample: readFileSync(join(runs, name, 'sample.txt'), 'utf8'),
})

before(() => {
  const { stdout, stderr, status } = main([...train, '--run', 'whole'])
  assert.equal(status, 0, stderr)
  uninterrupted = result('whole', stdout)
  assert.equal(uninterrupted.rows.length, 11)
})
after(() => rmSync(folder, { recursive: true }))

function resume(name: string) {
  const { stdout, stderr, status } = main([...again, '--resume', name])
  assert.equal(status, 0, stderr)
  return { ...result(name, stdout), stderr }
}

test('the last two checkpoints are kept, each with a sealed note of what it is', () => {
  const { names, steps } = checkpointsOf(join(runs, 'whole'))
  assert.deepEqual(
    names.toSorted(),
    steps.flatMap(step => [`step-${step}.json`, `step-${step}.safetensors`]).sort(),
  )
  assert.deepEqual(steps, [108, 120])
  const note = JSON.parse(readFileSync(join(runs, 'whole', 'checkpoints', 'step-120.json'), 'utf8'))
  assert.equal(note.at.tokens, 120 * 64)
  assert.equal(note.hyperparameters.net.dim, 24)
  assert.match(note.code, /^\w{12}$/)
})

test('killed at any moment and taken up again, it ends as if nothing had happened', async () => {
  let kills = 0
  // Random, but such that most kills come while it trains.
  let child = start([...train, '--run', 'killed'])
  for (;;) {
    let output = ''
    child.stdout?.setEncoding('utf8').on('data', text => (output += text))
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
    const code = await endOrKill(child, kills < 5 ? Math.random() * 250 : 60_000)
    if (code !== null) {
      assert.equal(code, 0)
      assert.deepEqual(result('killed', output), uninterrupted)
      break
    }
    kills++
    child = start([...again, '--resume', 'killed'])
  }
  assert.ok(kills > 0)
})

test('Ctrl-C writes a checkpoint, from which it goes on', async () => {
  const child = start([...train, '--run', 'stopped'])
  child.stdout!.setEncoding('utf8').on('data', text => /^\| *\d/m.test(text) && child.kill('SIGINT'))
  const [code] = await once(child, 'exit')
  assert.equal(code, 130)
  const { stderr, ...stopped } = resume('stopped')
  assert.equal(stderr, '')
  assert.deepEqual(stopped, uninterrupted)
})

test('a text that is another one when a run goes on is noticed, even of the same size and time', () => {
  const text = join(folder, 'other.txt')
  const write = (content: string) => {
    writeFileSync(text, content)
    utimesSync(text, 1e9, 1e9)
  }
  write('one two three four five six seven eight nine ten. '.repeat(200))
  main([...fresh, '--data', text, '--run', 'text', '--steps', '20'])
  const same = main([...again, '--resume', 'text', '--steps', '30'])
  assert.deepEqual([same.status, same.stderr], [0, ''])
  write('ten nine eight seven six five four three two one. '.repeat(200))
  const { status, stderr } = main([...again, '--resume', 'text', '--steps', '40'])
  assert.equal(status, 0)
  assert.match(
    stderr,
    /^The text to train on has changed since \S+ was started: it may not go on as it would have\.\n$/,
  )
})

test('a damaged checkpoint is named, and the one before it used', () => {
  main([...train, '--run', 'damaged'])
  const file = (step: number, extension: string) =>
    join(runs, 'damaged', 'checkpoints', `step-${step}.${extension}`)
  const [tensors, note] = [readFileSync(file(120, 'safetensors')), readFileSync(file(120, 'json'), 'utf8')]
  const damage: Record<string, () => void> = {
    'step-120.safetensors': () => truncateSync(file(120, 'safetensors'), tensors.length - 1),
    'step-120.safetensors ': () =>
      writeFileSync(file(120, 'safetensors'), tensors.with(5000, tensors[5000] ^ 1)),
    'step-120.json': () => writeFileSync(file(120, 'json'), note.replace('"step": 120', '"step": 121')),
    'step-120.json ': () => truncateSync(file(120, 'json'), 100),
  }
  for (const [name, harm] of Object.entries(damage)) {
    harm()
    const { stderr, ...after } = resume('damaged')
    assert.match(stderr, new RegExp(`^\\S*${name.trim()} is damaged: going on from step 108\\.\n$`))
    assert.deepEqual(after, uninterrupted)
  }
  damage['step-120.json']()
  truncateSync(file(108, 'safetensors'), 0)
  const { status, stderr, stdout } = main([...again, '--resume', 'damaged'])
  assert.equal(status, 1)
  assert.equal(stdout, '')
  assert.match(stderr, /^\S+step-120\.json is damaged, \S+step-108\.safetensors is damaged, and [^\n]+\n$/)
})

test(
  'where no checkpoint can be written, the one before stays whole',
  { skip: process.platform === 'win32' && 'not for Windows' },
  () => {
    main([...train, '--run', 'full'])
    const longer = [...again, '--resume', 'full', '--steps', '240']
    // A limit on the size of files, which fails as a full disk does.
    const { status, stderr } = main(longer, ['bash', '-c', 'ulimit -f 100; exec "$@"', '-'])
    assert.equal(status, 1)
    assert.match(
      stderr,
      /^The checkpoint of step \d+ cannot be written to \S+ \([^\n]+\); the one of step 120 is whole\.\n$/,
    )
    assert.deepEqual(checkpointsOf(join(runs, 'full')).steps, [108, 120])
    assert.equal(checkpointsOf(join(runs, 'full')).hash, uninterrupted.hash)
    assert.ok(resume('full').rows.length > 14, 'with more steps there are more evaluations')
    assert.equal(checkpointsOf(join(runs, 'full')).last, 240)
  },
)

test('a run that was killed before its first checkpoint starts anew', () => {
  main([...train, '--run', 'early'])
  rmSync(join(runs, 'early', 'checkpoints'), { recursive: true })
  const { stderr, ...early } = resume('early')
  assert.equal(stderr, '')
  assert.deepEqual(early, uninterrupted)
})

test('a run that is done says so, and how to go on with it', () => {
  const { stdout, status } = main([...again, '--resume', 'whole'])
  assert.equal(status, 0)
  assert.match(stdout, /^run +\S+whole, done after 120 steps: more --steps or --seconds go on with it$/m)
  assert.deepEqual(result('whole', stdout), uninterrupted)
})

test('a run by seconds goes on with its clock', async () => {
  const child = start([...fresh, '--run', 'clock', '--seconds', '0.8', '--evaluation.every', '0.1'])
  child.stdout!.setEncoding('utf8').on('data', text => /^\| *\d/m.test(text) && child.kill('SIGKILL'))
  await once(child, 'exit')
  const { stdout, status } = main([...again, '--resume', 'clock'])
  assert.equal(status, 0)
  const seconds = stdout
    .split('\n')
    .filter(line => /^\| *\d/.test(line))
    .map(line => Number(line.split('|')[12]))
  assert.deepEqual(
    seconds,
    seconds.toSorted((a, b) => a - b),
  )
  assert.ok(seconds.at(-1)! >= 0.75 && seconds.at(-1)! < 1.2, String(seconds))
})

test('a checkpoint of another network is refused', () => {
  const { status, stderr } = main([...again, '--resume', 'whole', '--net.dim', '32'])
  assert.equal(status, 1)
  assert.match(
    stderr,
    /^\S+step-120\.safetensors is of another network: its embedding\.weight is \[256,24\], and here it is \[256,32\]\.\n$/,
  )
  assert.equal(checkpointsOf(join(runs, 'whole')).hash, uninterrupted.hash)
})
