/** Random graphs on the engine and on the reference: fusion, views, places of pieces, memory, order. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type NDArray,
  type Tensor,
  type Variable,
  array,
  assign,
  compile,
  grad,
  variable,
} from '../../engine/index.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import { inputShapes, randomExtents, randomGraph } from '../support/fuzz.ts'
import { Reference, engineTools, randomArray, referenceTools, seeded } from '../support/reference.ts'
import { expectNear, expectSmall, productsOf } from '../support/tolerance.ts'

await startBackend()

/** FUZZ_SEEDS=1000:2000 in the environment tries other seeds. A GPU's kernels take longer to compile. */
const [firstSeed, lastSeed] = (process.env.FUZZ_SEEDS ?? (gpuPrecision ? '0:20' : '0:150'))
  .split(':')
  .map(Number)
const seeds = Array.from({ length: lastSeed - firstSeed }, (_, i) => firstSeed + i)

function close(what: string, actual: NDArray, expected: Reference, products: number): void {
  assert.deepEqual(actual.shape, expected.shape, what)
  expectNear(what, actual.data, expected.data, 5e-5, 'values', products)
}

const sameShape = (a: { shape: readonly number[] }, b: { shape: readonly number[] }) =>
  a.shape.join() === b.shape.join()

async function forward(seed: number): Promise<void> {
  const random = seeded(seed)
  const shapes = inputShapes(randomExtents(random))
  const data = shapes.map(shape => randomArray(shape, random))
  const steps = 4 + Math.floor(random() * 20)
  const references = shapes.map((shape, i) => new Reference(data[i], shape))
  // Half of the inputs are variables.
  const variables = shapes.map((shape, i) => (i % 2 === 0 ? variable(array(data[i], shape)) : undefined))
  const choice = Math.floor(random() * 2 ** 31)

  const expected = randomGraph(referenceTools, references, steps, seeded(choice), false)
  const isOutput = expected.map((_, i) => i === expected.length - 1 || random() < 0.2)
  const assigned = new Map<Variable, number>()
  for (const target of variables) {
    const fits = expected.flatMap((value, i) => (target && sameShape(value, target) ? [i] : []))
    if (target && random() < 0.6) assigned.set(target, fits[Math.floor(random() * fits.length)])
  }
  const run = compile(named => {
    const inputs = variables.map((given, i): Tensor => given ?? named[`x${i}`])
    const made = randomGraph(engineTools, inputs, steps, seeded(choice), false)
    for (const [target, i] of assigned) assign(target, made[i])
    return Object.fromEntries(made.flatMap((tensor, i) => (isOutput[i] ? [[`y${i}`, tensor]] : [])))
  })
  const inputs = Object.fromEntries(
    shapes.flatMap((shape, i) => (variables[i] ? [] : [[`x${i}`, array(data[i], shape)] as const])),
  )
  const results = await run(inputs)
  const products = await productsOf(run, inputs)
  for (const [name, result] of Object.entries(results))
    close(name, result, expected[Number(name.slice(1))], products)
  for (const [i, target] of variables.entries()) {
    if (!target) continue
    close(`variable ${i}`, await target.read(), expected[assigned.get(target) ?? i], products)
  }
}

/** The derivative in a random direction, by gradients and by a central difference in float64. */
async function backward(seed: number): Promise<void> {
  const random = seeded(seed)
  const shapes = inputShapes(randomExtents(random))
  const data = shapes.map(shape => randomArray(shape, random))
  const steps = 4 + Math.floor(random() * 12)
  const choice = Math.floor(random() * 2 ** 31)
  const directions = shapes.map(shape => new Reference(randomArray(shape, random), shape))

  const loss = (by: number) => {
    const moved = shapes.map((shape, i) => new Reference(data[i], shape).add(directions[i].mul(by)))
    const made = randomGraph(referenceTools, moved, steps, seeded(choice), true)
    return made.reduce((sum, value) => sum + value.square().sum().data[0], 0)
  }
  const run = compile(named => {
    const inputs = shapes.map((_, i) => named[`x${i}`])
    const made = randomGraph(engineTools, inputs, steps, seeded(choice), true)
    const total = made.map(value => value.square().sum()).reduce((a, b) => a.add(b))
    return Object.fromEntries([['loss', total], ...grad(total, inputs).map((g, i) => [`g${i}`, g] as const)])
  })
  const inputs = Object.fromEntries(shapes.map((shape, i) => [`x${i}`, array(data[i], shape)]))
  const results = await run(inputs)
  const products = await productsOf(run, inputs)
  const value = loss(0)
  const error = Math.abs(results.loss.item() - value) / value
  expectSmall(`loss ${results.loss.item()}, expected ${value}:`, error, 5e-5, 'values', products)
  let slope = 0
  let scale = 1
  directions.forEach((direction, i) =>
    direction.data.forEach((by, j) => {
      slope += by * results[`g${i}`].data[j]
      scale += Math.abs(by * results[`g${i}`].data[j])
    }),
  )
  const step = 1e-5
  const expected = (loss(step) - loss(-step)) / (2 * step)
  const slopeError = Math.abs(slope - expected) / scale
  expectSmall(`slope ${slope}, expected ${expected}:`, slopeError, 1e-4, 'gradients', products)
}

for (const [name, check] of Object.entries({ forward, backward })) {
  test(`random graphs, ${name}`, async () => {
    const failures: string[] = []
    for (const seed of seeds) {
      await check(seed).catch((error: Error) =>
        failures.push(`seed ${seed}: ${error.message.split('\n')[0]}`),
      )
    }
    assert.deepEqual(failures, [], `${failures.length} of ${seeds.length} seeds fail`)
  })
}
