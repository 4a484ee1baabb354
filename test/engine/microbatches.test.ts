/** Batches in several microbatches: the same results, in the memory of one microbatch. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Tensor,
  array,
  attention,
  compile,
  grad,
  inMicrobatches,
  linearCrossEntropy,
  randomNormal,
  rmsNorm,
  variable,
} from '../../engine/index.ts'
import { startBackend } from '../support/backend.ts'
import { randomArray, seeded } from '../support/reference.ts'
import { expectNear, productsOf } from '../support/tolerance.ts'

await startBackend()

const dim = 32
const weights = (rows: number, columns: number, key: number) =>
  variable(randomNormal([rows, columns], key, 1 / Math.sqrt(dim)))
const layers = Array.from({ length: 4 }, (_, i) => ({
  gain: variable(randomNormal([dim], 10 * i)),
  expand: weights(4 * dim, dim, 10 * i + 1),
  project: weights(dim, 4 * dim, 10 * i + 2),
}))
const output = weights(50, dim, 99)

/** A small network with all kinds of layers that a large one has. */
function lossOf(x: Tensor, targets: Tensor) {
  for (const { gain, expand, project } of layers) {
    const expanded = rmsNorm(x).mul(gain).matmul(expand.T)
    const [query, key, value] = expanded.split([dim, dim, 2 * dim])
    x = x.add(attention(query, key, value.tanh(), { heads: 2 }).matmul(project.slice(1, 0, 2 * dim).T))
  }
  const { loss, correct } = linearCrossEntropy(x, output, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

const step = (pieces: number) =>
  compile(({ x, targets }) => {
    const { loss, accuracy } = inMicrobatches(pieces, part => lossOf(part(x), part(targets)))
    const variables = [x, output, ...layers.flatMap(({ gain, expand, project }) => [gain, expand, project])]
    const gradients = grad(loss, variables)
    return {
      loss,
      accuracy,
      ...Object.fromEntries(gradients.map((gradient, i) => [`gradient ${i}`, gradient])),
    }
  })

function batch(rows: number, length: number) {
  const random = seeded(1)
  const targets = Int32Array.from({ length: rows * length }, () => Math.floor(random() * 50))
  return {
    x: array(randomArray([rows, length, dim], random), [rows, length, dim]),
    targets: array(targets, [rows, length]),
  }
}

test('means and gradients equal those of the whole batch, even if microbatches differ in size', async () => {
  const inputs = batch(7, 12)
  const products = await productsOf(step(1), inputs)
  const expectedOf = new Map(Object.entries(await step(1)(inputs)))
  for (const pieces of [3, 7]) {
    const results = await step(pieces)(inputs)
    assert.deepEqual(Object.keys(results), [...expectedOf.keys()])
    for (const [name, { data }] of Object.entries(results)) {
      const expected = expectedOf.get(name)!.data
      const largest = Math.max(...expected.map(Math.abs), 1e-3)
      const [found, wanted] = [data, expected].map(values => values.map(value => value / largest))
      expectNear(`${name} in ${pieces} pieces`, found, wanted, 1e-5, 'gradients', products)
    }
  }
})

test('each microbatch runs forward and backward before the next: memory holds one at a time', async () => {
  const inputs = batch(32, 64)
  const bytes = async (pieces: number) => (await step(pieces).prepare(inputs)).temporaryBytes
  const whole = await bytes(1)
  // x and its gradient stay whole; the activations of four layers do not.
  assert.ok((await bytes(8)) < 0.25 * whole)
})

test('no more microbatches than rows', async () => {
  await assert.rejects(step(4).prepare(batch(3, 8)), /inMicrobatches: 3 rows are too few for 4/)
})
