/** Deep networks: nothing is as deep as they are but the graph, and the process can be interrupted meanwhile. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { Dependencies } from '../../engine/compiler/dependencies.ts'
import type { LoweredInstruction } from '../../engine/compiler/lowered.ts'
import { Heap } from '../../engine/compiler/heap.ts'
import { array, compile, grad } from '../../engine/index.ts'
import { Buffer } from '../../engine/compiler/program.ts'
import { startBackend } from '../support/backend.ts'
import { deepNetwork, deepStep } from '../support/deep-network.ts'

await startBackend()

const close = (found: ArrayLike<number>, expected: ArrayLike<number>, what: string, tolerance = 1e-4) => {
  assert.equal(found.length, expected.length)
  for (let i = 0; i < found.length; i++)
    assert.ok(Math.abs(found[i] - expected[i]) < tolerance, `${what} ${i}: ${found[i]}, not ${expected[i]}`)
}

test('a step of 2,000 blocks is what loops compute', async () => {
  const blocks = 2000
  const { train, weights, scales, x } = deepNetwork(blocks)
  const expected = deepStep(blocks)
  const { loss, length } = await train({ x })
  close([loss.item(), length.item()], [expected.loss, expected.length], 'loss and length')
  for (let i = 0; i < blocks; i += 97) {
    close((await weights[i].read()).data, expected.weights[i], `weight ${i}`, 1e-5)
    close((await scales[i].read()).data, [expected.scales[i]], `scale ${i}`, 1e-5)
  }
})

test('a chain of 3,000 elementwise operations, its gradient and a slice of it', async () => {
  const depth = 3000
  const chain = compile(({ x }) => {
    let y = x
    for (let i = 0; i < depth; i++) y = y.sin().add(0.5)
    const part = y.slice(0, 1, 3)
    return { y, part, slope: grad(y.sum(), [x])[0], partSlope: grad(part.square().sum(), [x])[0] }
  })
  const x = Float32Array.of(0.1, -0.7, 1.3, 2.5)
  const found = await chain({ x: array(x) })
  const expected = [...x].map(start => {
    let [value, slope] = [start, 1]
    for (let i = 0; i < depth; i++) [value, slope] = [Math.sin(value) + 0.5, slope * Math.cos(value)]
    return { value, slope }
  })
  const values = expected.map(({ value }) => value)
  close(found.y.data, values, 'y')
  close(found.part.data, values.slice(1, 3), 'part')
  close(
    found.slope.data,
    expected.map(({ slope }) => slope),
    'slope',
  )
  close(
    found.partSlope.data,
    expected.map(({ value, slope }, i) => (i === 1 || i === 2 ? 2 * value * slope : 0)),
    'partSlope',
  )
})

test('the event loop has its turns while a network is compiled', async () => {
  let turns = 0
  let compiled = false
  const turn = () => {
    turns++
    if (!compiled) setImmediate(turn)
  }
  const { train, x } = deepNetwork(200)
  const prepared = train.prepare({ x })
  setImmediate(turn)
  await prepared
  compiled = true
  assert.ok(turns >= 2)
})

test('a process that compiles can be interrupted', async () => {
  const args = [...process.execArgv, `${import.meta.dirname}/../support/compiling.ts`]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
    if (text.includes('compiling')) child.kill('SIGINT')
  })
  const [code] = await once(child, 'exit')
  assert.equal(output, 'compiling\n')
  assert.equal(code, 130)
})

test('a buffer that took over memory from layer to layer knows whose it is, and that it gave it back', () => {
  const buffers = Array.from({ length: 50_000 }, () => new Buffer(1, 'float32'))
  buffers.slice(1).forEach((buffer, i) => (buffer.aliasOf = buffers[i]))
  assert.equal(buffers[49_999].allocation, buffers[0])
  assert.equal(buffers[30_000].allocation, buffers[0])
  buffers[20_000].separate()
  assert.equal(buffers[49_999].allocation, buffers[20_000])
  assert.equal(buffers[19_999].allocation, buffers[0])
  buffers[0].aliasOf = new Buffer(1, 'float32')
  assert.equal(buffers[19_999].allocation, buffers[0].aliasOf)
})

test('a heap gives out its items in their order', () => {
  const heap = new Heap<number>((a, b) => a < b)
  const numbers = Array.from({ length: 500 }, (_, i) => (i * 7919) % 503)
  const taken: (number | undefined)[] = []
  for (const number of numbers) {
    heap.push(number)
    if (number % 3 === 0) taken.push(heap.pop())
  }
  while (heap.first !== undefined) taken.push(heap.pop())
  assert.deepEqual(new Set(taken), new Set(numbers))
  const sorted = new Heap<number>((a, b) => a < b)
  for (const number of numbers) sorted.push(number)
  assert.deepEqual(
    numbers.map(() => sorted.pop()),
    numbers.toSorted((a, b) => a - b),
  )
})

test('what an instruction depends on is known, however constraints are added', () => {
  let state = 1
  const random = (below: number) => (state = (state * 48271) % 2147483647) % below
  for (let round = 0; round < 40; round++) {
    const count = 3 + random(25)
    const buffers = Array.from({ length: count }, () => new Buffer(1, 'float32'))
    const instructions = buffers.map((made, i): LoweredInstruction => {
      const needs = Array.from({ length: random(3) }, () => buffers[random(Math.max(1, i))])
      const work = {
        kind: 'rows',
        rows: 1,
        columns: 1,
        rowBlock: 1,
        values: [],
        stores: [],
        columnSums: [],
      } as const
      const needed = needs.filter(need => need !== made)
      const rest = { reads: [], writes: [], partition: undefined, order: i, microbatch: 0 }
      return { work, needs: needed, makes: [made], ...rest }
    })
    const before = instructions.map(
      ({ needs }) => new Set(needs.map(need => buffers.findIndex(b => b === need))),
    )
    const depends = (from: number, on: number): boolean =>
      from === on || [...before[from]].some(other => depends(other, on))
    const dependencies = new Dependencies()
    // In any order.
    dependencies.add(instructions.toSorted(() => random(3) - 1))
    for (let i = 0; i < 60; i++) {
      const [a, b] = [random(count), random(count)]
      assert.equal(dependencies.dependsOn(instructions[a], instructions[b]), depends(a, b))
      if (depends(b, a)) continue
      before[a].add(b)
      dependencies.wait(instructions[a], instructions[b])
    }
  }
})
