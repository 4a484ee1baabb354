/** Memory: what --memory means, and microbatches that fit it. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { test } from 'node:test'
import {
  MemoryError,
  array,
  assign,
  compile,
  full,
  grad,
  randomNormal,
  variable,
} from '../../engine/index.ts'
import { SharedMemory } from '../../engine/cpu/runtime/memory.ts'
import { compileWithin, fewestMicrobatches, microbatched } from '../../run/budget.ts'
import { UserError } from '../../common/errors.ts'
import { memoryLimit, showBytes } from '../../run/memory.ts'
import { startBackend } from '../support/backend.ts'

await startBackend()

const backend = { capacity: { most: 4e9, usual: 1.5e9 } }

test('--memory takes an amount with a unit, up to what the backend has', () => {
  assert.equal(memoryLimit('3GB', backend), 3e9)
  assert.equal(memoryLimit('1.5gib', backend), 1.5 * 2 ** 30)
  assert.equal(memoryLimit('800 MB', backend), 8e8)
  assert.equal(memoryLimit('64GB', backend), 4e9)
  assert.equal(memoryLimit(undefined, backend), 1.5e9)
  for (const wrong of ['', 'GB', '4', '4XB', '-4GB', '0GB', 'lots']) {
    assert.throws(() => memoryLimit(wrong, backend), UserError, wrong)
  }
})

test('an amount is shown so that --memory takes it, and is enough', () => {
  assert.deepEqual([999, 1234, 5_000_001, 2.5e9, 4.2e10].map(showBytes), [
    '999 B',
    '1.24 kB',
    '5.01 MB',
    '2.5 GB',
    '42 GB',
  ])
  for (let bytes = 7; bytes < 3.9e9; bytes = Math.floor(bytes * 1.37) + 1) {
    const shown = memoryLimit(showBytes(bytes), backend)
    assert.ok(shown >= bytes && shown <= bytes * 1.011, `${bytes} is shown as ${showBytes(bytes)}`)
  }
})

test('microbatches are about as few as fit, and few programs are planned to find them', async () => {
  for (const sequences of [1, 2, 3, 7, 16, 64, 333, 1788]) {
    /** Bytes with so many sequences in a microbatch: constant, proportional, and those of chunks that stop growing. */
    const bytes = (count: number) => 1000 + 5 * sequences + 40 * count + 300 * Math.min(count, 9)
    const least = bytes(1)
    for (let limit = least; limit < 2 * bytes(sequences); limit = Math.floor(limit * 1.3)) {
      let plans = 0
      const bytesInMicrobatches = async (count: number) => {
        plans++
        const inLargest = Math.ceil(sequences / count)
        return inLargest > 500 ? Infinity : bytes(inLargest)
      }
      const request = { sequences, length: 64, limit, bytesInMicrobatches, bytesOfOne: async () => least }
      const found = await fewestMicrobatches(request)
      const inLargest = Math.ceil(sequences / found)
      assert.ok(inLargest <= 500 && bytes(inLargest) <= limit, `${found} for ${sequences} in ${limit}`)
      assert.ok(plans <= 12, `${plans} plans for ${sequences} in ${limit}`)
      // With half as many microbatches the largest would not fit.
      const half = Math.ceil(sequences / Math.ceil(found / 2 - 1))
      assert.ok(found < 3 || half > 500 || bytes(half) > limit, `${found} for ${sequences} in ${limit}`)
    }
  }
})

test('when not even one sequence fits, what would is said', async () => {
  const request = {
    sequences: 8,
    length: 1024,
    bytesInMicrobatches: async (count: number) => 1e8 + (8 / count) * 1024e6,
    bytesOfOne: async (length: number) => 1e8 + length * 1e6,
  }
  await assert.rejects(fewestMicrobatches({ ...request, limit: 5e8 }), {
    name: 'UserError',
    message:
      '500 MB of memory is not enough: with one sequence of 1024 tokens at a time a step takes 1.13 GB. What would fit: ' +
      'a sequence length of 256, or --memory 1.13GB, or a smaller network.',
  })
  await assert.rejects(
    fewestMicrobatches({ ...request, limit: 5e7 }),
    /fit: --memory 1.13GB, or a smaller network\.$/,
  )
  await assert.rejects(
    fewestMicrobatches({ ...request, bytesOfOne: async () => Infinity, limit: 2 ** 32 }),
    /takes more than there can be\. What would fit: a smaller network\.$/,
  )
})

test('a function takes no more than it may, and finds the same', async () => {
  const weights = variable(randomNormal([64, 64], 1, 0.2))
  const step = (limit: number) =>
    compileWithin({ limit, variableBytes: 0 }, ({ x }) => {
      const { loss } = microbatched(rows => {
        const layers = [0, 1, 2, 3].reduce(y => y.matmul(weights).tanh(), rows)
        return { loss: layers.square().mean() }
      }, x)
      return { loss, gradient: grad(loss, [weights])[0] }
    })
  const x = array(
    Float32Array.from({ length: 32 * 16 * 64 }, (_, i) => Math.sin(i)),
    [32, 16, 64],
  )
  const whole = await step(1e9).prepare({ x })
  assert.equal(whole.microbatches, 1)
  const limit = whole.variableBytes + whole.temporaryBytes / 2
  const split = await step(limit).prepare({ x })
  assert.ok(split.microbatches > 1)
  assert.ok(split.variableBytes + split.temporaryBytes <= limit)
  const [expected, found] = [await step(1e9)({ x }), await step(limit)({ x })]
  assert.ok(Math.abs(found.loss.item() - expected.loss.item()) < 1e-6)
  const apart = found.gradient.data.map((value, i) => Math.abs(value - expected.gradient.data[i]))
  assert.ok(Math.max(...apart) < 1e-6)
  await assert.rejects(step(1e4).prepare({ x }), /^UserError: 10 kB of memory is not enough/)
})

test('an arena that cannot grow stays as it was', () => {
  const memory = new SharedMemory()
  memory.reserveArena(1000)
  const { arena } = memory
  memory.allocate(100)
  assert.throws(() => memory.reserveArena(2 ** 33), MemoryError)
  assert.equal(memory.arena, arena)
  memory.reserveArena(2000)
  assert.notEqual(memory.arena, arena)
})

test('a program goes on after another was refused for its size', async () => {
  const sum = variable(full([1], 0))
  const run = compile(({ x }) => ({ total: x.mul(2).sum().add(sum.reshape()) }))
  const huge = compile(({ x }) => ({ total: x.exp().matmul(x.exp().T).exp().max(-1) }))
  const x = array(Float32Array.of(1, 2, 3))
  assert.equal((await run({ x })).total.item(), 12)
  await assert.rejects(huge.prepare({ x: array(new Float32Array(40_000), [40_000, 1]) }), MemoryError)
  assert.equal((await run({ x })).total.item(), 12)
})

test('an update computes what is assigned, and nothing that is only returned', async () => {
  const sum = variable(full([1], 1))
  const run = compile(({ x }) => {
    assign(sum, sum.add(x.sum().reshape(1)))
    return { total: x.exp().matmul(x.exp().T).exp().max(-1) }
  })
  const x = array(new Float32Array(40_000).fill(0.5), [40_000, 1])
  assert.equal(await run.update({ x }), undefined)
  assert.equal((await sum.read()).item(), 20_001)
  await assert.rejects(run({ x }), MemoryError)
})

test('npm start runs main.ts, or the experiment that is named', () => {
  const cwd = resolve(import.meta.dirname, '../..')
  const start = (...args: string[]) =>
    spawnSync(process.execPath, ['--import', './run/node.js', 'run/start.ts', ...args], {
      cwd,
      encoding: 'utf8',
    })
  assert.match(start('--help').stdout, /--net\.keyDim|ngramRows/)
  assert.match(start('baselines/hlb-gpt-0.1.ts', '--help').stdout, /first release/)
  assert.match(start('baselines/hlb-gpt-0.4.ts', '--help').stdout, /modelScale/)
  const missing = start('baselines/hlb-gpt-0.5.ts')
  assert.equal(missing.status, 1)
  assert.match(missing.stderr, /^There is no experiment baselines\/hlb-gpt-0\.5\.ts: .*\n$/)
})

/** Runs a line of TypeScript that has cpuBackend, behind some words of a shell. */
function inShell(before: string, line: string) {
  const script = `import { cpuBackend } from './engine/index.ts'; ${line}`
  const command = `${before} exec "$0" --import ./run/node.js --input-type=module-typescript --eval "$1"`
  return spawnSync('sh', ['-c', command, process.execPath, script], {
    cwd: resolve(import.meta.dirname, '../..'),
    encoding: 'utf8',
  })
}

test('in a container the usual memory is of what its limit leaves', () => {
  const limits = 'process.constrainedMemory = () => 1e9; process.availableMemory = () => 8e8;'
  const usual = 'const { capacity } = await cpuBackend({ threads: 1 }); console.log(capacity.usual)'
  const { stdout, stderr } = inShell('', limits + usual)
  assert.ok(Number(stdout) > 0 && Number(stdout) <= 0.75e9, `${stdout} ${stderr}`)
})

test(
  'too few addresses are said in a sentence',
  { skip: process.platform !== 'linux' && 'only Linux has ulimit -v' },
  () => {
    const line = 'await cpuBackend({ threads: 2 }).catch(error => console.log(error.name, error.message))'
    const { stdout, stderr } = inShell('ulimit -v 20000000;', line)
    assert.match(
      stdout,
      /^MemoryError the address space of this process is limited to 21 GB \(ulimit -v\), and .*\n$/,
      stderr,
    )
  },
)
