/** Memory: what --memory means, and pieces that fit it. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { test } from 'node:test'
import { MemoryError, array, compile, full, variable } from '../engine/index.ts'
import { SharedMemory } from '../engine/cpu/memory.ts'
import { UserError } from '../run/errors.ts'
import { choosePieces, freeMemory, memoryLimit, pieceRanges, showBytes } from '../run/memory.ts'
import { startBackend } from './backend.ts'

await startBackend()

test('--memory takes an amount with a unit; by default it is three quarters of what is free', () => {
  assert.equal(memoryLimit('3GB'), 3e9)
  assert.equal(memoryLimit('1.5gib'), 1.5 * 2 ** 30)
  assert.equal(memoryLimit('800 MB'), 8e8)
  assert.equal(memoryLimit('64GB'), 2 ** 32 - 2 ** 26, 'what the engine can address')
  assert.equal(freeMemory(1e9), '750MB')
  for (const wrong of ['', 'GB', '4', '4XB', '-4GB', '0GB', 'lots']) {
    assert.throws(() => memoryLimit(wrong), UserError, wrong)
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
  for (let bytes = 7; bytes < 4e9; bytes = Math.floor(bytes * 1.37) + 1) {
    const shown = memoryLimit(showBytes(bytes))
    assert.ok(shown >= bytes && shown <= bytes * 1.011, `${bytes} is shown as ${showBytes(bytes)}`)
  }
})

test('pieces are as few as fit, and few programs are planned to find them', async () => {
  /** A head whose chunks stop growing, and the rest that does not. */
  const plan = (count: number) => 1000 + 40 * count + 300 * Math.min(count, 9)
  for (const sequences of [1, 2, 3, 7, 16, 64, 333, 1788]) {
    for (let limit = 1500; limit < 80_000; limit = Math.floor(limit * 1.3)) {
      let plans = 0
      const temporaryBytes = (count: number) => {
        plans++
        assert.ok(count <= sequences)
        return count > 500 ? Promise.reject(new MemoryError('too much')) : Promise.resolve(plan(count))
      }
      const pieces = await choosePieces({ sequences, length: 64, limit, variableBytes: 100, temporaryBytes })
      const fits = (pieces: number) => {
        const count = Math.ceil(sequences / pieces)
        return count <= 500 && 100 + plan(count) <= limit
      }
      assert.ok(fits(pieces), `${pieces} pieces of ${sequences} in ${limit}`)
      const fewer =
        Math.ceil(sequences / pieces) >= sequences
          ? 0
          : Math.ceil(sequences / Math.ceil(sequences / pieces)) - 1
      assert.ok(fewer < 1 || !fits(fewer), `${fewer} pieces would do for ${sequences} in ${limit}`)
      assert.ok(plans <= 10, `${plans} plans for ${sequences} in ${limit}`)
    }
  }
})

test('when not even one sequence fits, what would is said', async () => {
  const request = {
    sequences: 8,
    length: 1024,
    variableBytes: 1e8,
    temporaryBytes: async (_: number, length: number) => length * 1e6,
  }
  await assert.rejects(choosePieces({ ...request, limit: 5e8 }), {
    name: 'UserError',
    message:
      '500 MB of memory is not enough: with one sequence of 1024 tokens a step takes 1.13 GB, 100 MB of it for ' +
      'parameters, gradients and optimizer state. What would fit: a sequence length of 256, or --memory 1.13GB, or a smaller network.',
  })
  await assert.rejects(
    choosePieces({ ...request, limit: 5e7 }),
    /fit: --memory 1.13GB, or a smaller network\.$/,
  )
  await assert.rejects(
    choosePieces({ ...request, variableBytes: 5e9, limit: 2 ** 32 }),
    /fit: a smaller network\.$/,
  )
})

test('pieces cover the batch, the largest by at most one', () => {
  for (const [rows, pieces] of [
    [7, 3],
    [1788, 41],
    [5, 5],
    [6, 1],
  ] as const) {
    const ranges = pieceRanges(rows, pieces)
    const sizes = ranges.map(({ start, end }) => end - start)
    assert.deepEqual(
      ranges.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)),
      [...Array(rows).keys()],
    )
    assert.ok(
      Math.max(...sizes) === Math.ceil(rows / pieces) && Math.min(...sizes) >= Math.floor(rows / pieces),
    )
  }
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

test('npm start runs main.ts, or the experiment that is named', () => {
  const cwd = resolve(import.meta.dirname, '..')
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
