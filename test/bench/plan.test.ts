import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Planner, tensorCores } from '../../bench/planner.ts'
import { trainingStep } from '../../bench/latent.ts'
import type { DeviceProgram } from '../../engine/gpu/passes/device-program.ts'
import { array, compile, randomNormal, useBackend, variable } from '../../engine/index.ts'

// What a GPU would do, without one.

const work = { kind: 'step', dim: 64, blocks: 2, vocabulary: 512, length: 32, batch: 4, steps: 1 } as const

async function planOf(
  precision: 'f32' | 'f16',
  bindings: number = tensorCores.bindings,
): Promise<DeviceProgram> {
  const planner = new Planner(precision, { target: { ...tensorCores, bindings } })
  useBackend(planner)
  const { compiled, inputs } = trainingStep(work)
  await compiled.prepare(inputs)
  assert.ok(planner.plan)
  return planner.plan
}

const typesOf = ({ dispatches, typeOf }: DeviceProgram, pattern: RegExp) =>
  dispatches
    .filter(({ kernel }) => pattern.test(kernel.name))
    .map(({ buffers, writes }) =>
      buffers.map(buffer => `${writes.includes(buffer) ? '>' : ''}${typeOf(buffer)}`).join(' '),
    )

test('with f16, products read nothing else', async () => {
  const { dispatches } = await planOf('f16')
  const products = dispatches.flatMap(({ kernel }) => (kernel.name.startsWith('matmul') ? [kernel.name] : []))
  assert.ok(products.length > 10)
  for (const name of products) assert.match(name, /f16·f16/)
})

test('with f16, attention hands on f16, and its statistics are f32', async () => {
  const plan = await planOf('f16')
  assert.deepEqual(new Set(typesOf(plan, /^attention logSumExp/)), new Set(['f16 >f32 f32']))
  for (const types of typesOf(plan, /^attention keys/)) assert.match(types, /^(?!.*>f32).*>f16/)
})

test('the residual stream and sums of gradients are f32', async () => {
  const plan = await planOf('f16')
  const sums = plan.dispatches.filter(({ kernel }) => / f16·f16\+/.test(kernel.name))
  assert.ok(sums.length > 0)
  for (const { kernel } of sums) assert.match(kernel.name, /\+f32→f32/)
})

test('what a product makes is f16, though a sum that is f32 could take over its memory', async () => {
  const planner = new Planner('f16')
  useBackend(planner)
  const [first, second] = [1, 2].map(seed => variable(randomNormal([64, 64], seed)))
  const { prepare } = compile(({ x }) => {
    const stream = x.add(x.matmul(first).tanh())
    return { sum: stream.add(stream.matmul(second)).mean() }
  })
  await prepare({ x: array(new Float32Array(64 * 64), [64, 64]) })
  assert.ok(planner.plan)
  const [made, sum] = planner.plan.dispatches.filter(({ kernel }) => kernel.name.startsWith('matmul'))
  assert.match(made.kernel.name, /→f16/)
  assert.match(sum.kernel.name, /\+f32→f32/)
})

test('the gradient of a LayerNorm is one kernel, and fits any GPU of ten buffers', async () => {
  const { dispatches } = await planOf('f16', 10)
  const norms = dispatches.filter(
    ({ kernel }) => /^rows 64 .*columns/.test(kernel.name) && /sqrt/.test(kernel.name),
  )
  // Two blocks and the last norm; what is left adds up what workgroups have summed.
  assert.equal(norms.length, 3)
})

test('a product with few columns is computed transposed, and still adds its addend', async () => {
  const planner = new Planner('f32')
  useBackend(planner)
  const [x, weights] = [
    [64, 96],
    [96, 2],
  ].map((shape, seed) => variable(randomNormal(shape, seed)))
  const { prepare } = compile(({ sum }) => ({ result: sum.add(x.matmul(weights)) }))
  await prepare({ sum: array(new Float32Array(64 * 2), [64, 2]) })
  assert.ok(planner.plan)
  const products = planner.plan.dispatches.filter(({ kernel }) => kernel.name.startsWith('matmul'))
  assert.deepEqual(
    products.map(({ kernel, buffers }) => [kernel.name, buffers.length]),
    [['matmul 2×64×96 f32·f32+f32→f32 by columns', 4]],
  )
})
