/** Sums of very many numbers keep float32's digits, as PyTorch's do, wherever they are added up. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Tensor,
  array,
  compile,
  crossEntropy,
  full,
  grad,
  layerNorm,
  norm,
  rmsNorm,
  softmax,
  useBackend,
} from '../../engine/index.ts'
import { gpuPrecision, makeBackend, startBackend } from '../support/backend.ts'

const backend = await startBackend()

// Where products or temporaries are float16, that is what loses digits.
const options = { skip: gpuPrecision !== undefined && gpuPrecision !== 'f32' && 'float16 has too few digits' }

const count = 1_000_000
const tenth = Math.fround(0.1)
const tenths = array(new Float32Array(count).fill(0.1))

/** All elements of what is computed from a million times 0.1. */
async function valuesOf(body: (x: Tensor) => Tensor): Promise<number[]> {
  const { y } = await compile(({ x }) => ({ y: body(x) }))({ x: tenths })
  return [...y.data]
}

function expectClose(values: readonly number[], expected: number, tolerance: number): void {
  for (const value of values) {
    const error = Math.abs(value / expected - 1)
    assert.ok(error <= tolerance, `${value} instead of ${expected}: off by ${error.toExponential(1)} of it`)
  }
}

const sums: Record<string, [body: (x: Tensor) => Tensor, expected: number]> = {
  'all of a vector': [x => x.sum(), count * tenth],
  'one row': [x => x.reshape(1, count).sum(-1), count * tenth],
  'rows of 50,000': [x => x.reshape(20, 50_000).sum(-1), 50_000 * tenth],
  'rows that are no whole vectors': [
    x => x.slice(0, 0, 999_999).reshape(9, 111_111).sum(-1),
    111_111 * tenth,
  ],
  'one column': [x => x.reshape(count, 1).sum(0), count * tenth],
  'eight columns': [x => x.reshape(count / 8, 8).sum(0), (count / 8) * tenth],
  '500 columns': [x => x.reshape(count / 500, 500).sum(0), (count / 500) * tenth],
  'an axis between': [x => x.reshape(2, count / 4, 2).sum(1), (count / 4) * tenth],
  'all of eight columns': [x => x.reshape(count / 8, 8).sum(), count * tenth],
  'all of a thousand columns': [x => x.reshape(1000, 1000).sum(), count * tenth],
  mean: [x => x.mean(), tenth],
  'two sums in one pass': [x => x.sum().add(x.square().sum()), count * (tenth + tenth ** 2)],
  norm: [x => norm([x]), Math.sqrt(count) * tenth],
  softmax: [x => softmax(x), 1 / count],
  rmsNorm: [x => rmsNorm(x, 0), 1],
  'the loss of a large vocabulary': [
    x => crossEntropy(x.reshape(1, count), full([1], 7, 'int32')).loss,
    Math.log(count),
  ],
}

for (const [name, [body, expected]] of Object.entries(sums))
  test(`sums of a million numbers: ${name}`, options, async () => {
    expectClose(await valuesOf(body), expected, 2e-6)
  })

test('a large number before many small ones', options, async () => {
  const data = new Float32Array(count).fill(1)
  data[0] = 3e7
  const { row, column } = await compile(({ x }) => ({
    row: x.sum(),
    column: x.reshape(count, 1).sum(0),
  }))({ x: array(data) })
  expectClose([row.item(), column.data[0]], 30_999_999, 5e-6)
})

test('the mean of sixteen million numbers', options, async () => {
  const { y } = await compile(({ x }) => ({ y: x.mean() }))({ x: array(new Float32Array(2 ** 24).fill(0.1)) })
  expectClose([y.item()], tenth, 3e-6)
})

test('layerNorm of a long row has mean zero and unit variance', options, async () => {
  const data = Float32Array.from({ length: count }, (_, i) => 100 + (i % 2))
  const { y } = await compile(({ x }) => ({ y: layerNorm(x, 0) }))({ x: array(data, [1, count]) })
  for (const [i, value] of y.data.entries())
    assert.ok(Math.abs(value - (i % 2 ? 1 : -1)) < 2e-3, `element ${i} is ${value}`)
})

const products: Record<string, (x: Tensor) => Tensor> = {
  'a row and a column': x => x.reshape(1, count).matmul(full([count, 1], 1)),
  'a row and eight columns': x => x.reshape(1, count).matmul(full([count, 8], 1)),
  'a row and eight rows': x => x.reshape(1, count).matmul(full([8, count], 1).T),
  'eight rows and columns': x =>
    x
      .reshape(1, count)
      .broadcastTo([8, count])
      .matmul(full([count, 8], 1)),
  'forty rows and columns': x =>
    x
      .reshape(1, count)
      .broadcastTo([40, count])
      .matmul(full([count, 40], 1))
      .slice(0, 0, 4),
  'columns and columns': x =>
    x
      .reshape(count, 1)
      .broadcastTo([count, 8])
      .T.matmul(full([count, 8], 1)),
}

for (const [name, body] of Object.entries(products))
  test(`products over a million terms: ${name}`, options, async () => {
    expectClose(await valuesOf(body), count * tenth, gpuPrecision ? 2e-5 : 5e-6)
  })

test('products over fifty thousand terms', options, async () => {
  const k = 50_000
  const part = (x: Tensor) => x.slice(0, 0, k).reshape(1, k)
  expectClose(await valuesOf(x => part(x).matmul(full([k, 8], 1))), k * tenth, 2e-5)
  expectClose(await valuesOf(x => part(x).matmul(full([8, k], 1).T)), k * tenth, 2e-5)
  expectClose(
    await valuesOf(x =>
      part(x)
        .broadcastTo([30, k])
        .matmul(full([k, 40], 1)),
    ),
    k * tenth,
    2e-5,
  )
})

test('gradients of a product over a million terms', options, async () => {
  const { dx, dw } = await compile(({ x, w }) => {
    const loss = x
      .reshape(2, count / 2)
      .matmul(w)
      .sum()
    const [dx, dw] = grad(loss, [x, w])
    return { dx, dw }
  })({ x: tenths, w: array(new Float32Array(count).fill(2), [count / 2, 2]) })
  expectClose([...dx.data], 4, 1e-6)
  expectClose([...dw.data], 2 * tenth, 1e-6)
})

test(
  'long sums are the same to the last bit on any number of threads',
  { skip: gpuPrecision !== undefined && 'threads are of the CPU' },
  async () => {
    const data = Float32Array.from({ length: count }, (_, i) => Math.sin(i) + 1)
    const run = async () => {
      const outputs = await compile(({ x }) => ({
        row: x.sum(),
        columns: x.reshape(count / 8, 8).sum(0),
        product: x.reshape(1, count).matmul(full([count, 3], 1)),
      }))({ x: array(data) })
      return Object.values(outputs).map(({ data }) => [...data])
    }
    const two = await run()
    const three = await makeBackend({ threads: 3 })
    useBackend(three)
    assert.deepEqual(await run(), two)
    await three.close()
    useBackend(backend)
  },
)
