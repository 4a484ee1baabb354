import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type NDArray,
  type Shape,
  type Tensor,
  arange,
  array,
  compile,
  concat,
  crossEntropy,
  full,
  grad,
  linearCrossEntropy,
  norm,
} from '../../engine/index.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import {
  type Body,
  Reference,
  type Tools,
  engineTools,
  randomArray,
  referenceTools,
  seeded,
} from '../support/reference.ts'
import { expectNear, productsOf } from '../support/tolerance.ts'

await startBackend()

interface Input {
  readonly shape: Shape
  readonly low?: number
  readonly high?: number
  /** Instead of random numbers. Whole numbers are int32 if they say so, and have no gradient. */
  readonly values?: readonly number[]
  readonly int?: boolean
}

const shape = (...extents: number[]): Input => ({ shape: extents })
const between = (low: number, high: number, ...extents: number[]): Input => ({ shape: extents, low, high })
const indices = (values: readonly number[], ...extents: number[]): Input => ({
  shape: extents,
  values,
  int: true,
})

/** Checks a function's value against the reference's, and its gradients against central differences of that. */
async function check(inputs: readonly Input[], body: Body, tolerance = 2e-5): Promise<void> {
  const random = seeded(inputs.length * 7 + inputs[0].shape.length)
  const data = inputs.map(({ shape, low = -1, high = 1, values, int }) =>
    int
      ? Int32Array.from(values ?? [])
      : values
        ? Float32Array.from(values)
        : randomArray(shape, random, low, high),
  )
  const references = inputs.map(({ shape }, i) => new Reference(data[i], shape))
  const expected = body(referenceTools, ...references)
  const weights = randomArray(expected.shape, random, 0.5, 1.5)
  const loss = (changed: readonly Reference[]) =>
    body(referenceTools, ...changed).data.reduce((sum, value, i) => sum + value * weights[i], 0)

  const run = compile(named => {
    const tensors = inputs.map((_, i) => named[`x${i}`])
    const out = body(engineTools, ...tensors)
    assert.deepEqual(out.shape, expected.shape)
    const smooth = tensors.filter((_, i) => !inputs[i].int)
    const gradients = grad(out.mul(named.weights).sum(), smooth)
    return Object.fromEntries([['out', out], ...gradients.map((gradient, i) => [`g${i}`, gradient] as const)])
  })
  const named = Object.fromEntries(inputs.map(({ shape }, i) => [`x${i}`, array(data[i], shape)]))
  const given = { ...named, weights: array(weights, expected.shape) }
  const results = await run(given)
  const products = await productsOf(run, given)
  expectNear('value', results.out.data, expected.data, tolerance, 'values', products)

  let number = 0
  inputs.forEach(({ int }, i) => {
    if (int) return
    const step = 1e-4
    const differences = references[i].data.map((_, j) => {
      const moved = (by: number) => {
        const changed = references[i].data.slice()
        changed[j] += by
        return loss(
          references.map((reference, k) => (k === i ? new Reference(changed, reference.shape) : reference)),
        )
      }
      return (moved(step) - moved(-step)) / (2 * step)
    })
    expectNear(`gradient ${i}`, results[`g${number++}`].data, differences, tolerance, 'gradients', products)
  })
}

const wide = [between(-2, 2, 3, 11)]
const positive = [between(0.4, 3, 3, 11)]
const unary: Record<string, [Input[], Body]> = {
  neg: [wide, (_, x) => x.neg()],
  abs: [wide, (_, x) => x.abs()],
  exp: [wide, (_, x) => x.exp()],
  log: [positive, (_, x) => x.log()],
  log1p: [positive, (_, x) => x.log1p()],
  sqrt: [positive, (_, x) => x.sqrt()],
  reciprocal: [positive, (_, x) => x.reciprocal()],
  rsqrt: [positive, (_, x) => x.rsqrt()],
  square: [wide, (_, x) => x.square()],
  sin: [wide, (_, x) => x.sin()],
  cos: [wide, (_, x) => x.cos()],
  tanh: [wide, (_, x) => x.tanh()],
  erf: [wide, (_, x) => x.erf()],
  'pow 1': [wide, (_, x) => x.pow(1)],
  'pow 3': [wide, (_, x) => x.pow(3)],
  'pow 0.5': [positive, (_, x) => x.pow(0.5)],
  'pow -1': [positive, (_, x) => x.pow(-1)],
  'pow -0.5': [positive, (_, x) => x.pow(-0.5)],
  'pow 0': [wide, (_, x) => x.pow(0).add(x.mul(0))],
  'pow 4': [wide, (_, x) => x.pow(4)],
  'pow 7': [wide, (_, x) => x.pow(7)],
  'pow -2': [positive, (_, x) => x.pow(-2)],
  'pow 1.7': [positive, (_, x) => x.pow(1.7)],
  gelu: [wide, (f, x) => f.gelu(x)],
  relu: [wide, (f, x) => f.relu(x)],
  sigmoid: [wide, (f, x) => f.sigmoid(x)],
  softplus: [wide, (f, x) => f.softplus(x)],
  softmax: [wide, (f, x) => f.softmax(x)],
  layerNorm: [wide, (f, x) => f.layerNorm(x)],
  rmsNorm: [wide, (f, x) => f.rmsNorm(x)],
}
for (const [name, [inputs, body]] of Object.entries(unary)) test(name, () => check(inputs, body))

const binary: Record<string, Body> = {
  add: (_, x, y) => x.add(y),
  sub: (_, x, y) => x.sub(y),
  mul: (_, x, y) => x.mul(y),
  div: (_, x, y) => x.div(y),
  maximum: (_, x, y) => x.maximum(y),
  minimum: (_, x, y) => x.minimum(y),
  where: (f, x, y) => f.where(x.less(y), x.square(), y.mul(3)),
}
const broadcasts: [Shape, Shape][] = [
  [
    [3, 4, 5],
    [3, 4, 5],
  ],
  [[3, 4, 5], []],
  [[3, 4, 5], [5]],
  [
    [3, 4, 5],
    [4, 1],
  ],
  [
    [3, 4, 5],
    [3, 1, 1],
  ],
  [
    [3, 4, 5],
    [1, 4, 1],
  ],
  [
    [3, 1, 5],
    [1, 4, 1],
  ],
  [[3, 4, 1], [5]],
  [[1], [7, 9]],
  [[60, 3], [3]],
]
for (const [name, body] of Object.entries(binary)) {
  test(`${name}, broadcast in every position`, async () => {
    for (const [a, b] of broadcasts) {
      await check([between(0.5, 2, ...a), between(0.6, 2.2, ...b)], body)
      await check([between(0.5, 2, ...b), between(0.6, 2.2, ...a)], body)
    }
  })
}

test('a number as the operand', async () => {
  await check([shape(5, 3)], (_, x) => x.add(2).mul(3).sub(1).div(4).maximum(0.1).minimum(0.9))
  await check([shape(5, 3)], (f, x) => f.where(x.less(0.2), 1, x).add(f.where(x.less(0), x, 0)))
})

test('equal operands of maximum and minimum', async () => {
  // Each gets half of the gradient.
  const run = compile(({ x, y }) => {
    const [dx, dy] = grad(x.maximum(y).sum().add(x.minimum(y).sum()), [x, y])
    return { dx, dy }
  })
  const { dx, dy } = await run({ x: array(Float32Array.of(1, 2)), y: array(Float32Array.of(1, 2)) })
  assert.deepEqual([...dx.data, ...dy.data], [1, 1, 1, 1])
})

test('reductions over each axis', async () => {
  for (const axis of [undefined, 0, 1, 2, -1]) {
    for (const keep of [false, true]) {
      const inputs = [shape(3, 4, 5)]
      await check(inputs, (_, x) => x.sum(axis, keep))
      await check(inputs, (_, x) => x.mean(axis, keep))
      await check(inputs, (_, x) => x.max(axis, keep))
      await check(inputs, (_, x) => x.sub(x.mean(axis, true)).square().sum(axis, keep))
    }
  }
  await check([shape(7)], (_, x) => x.sum())
  await check([shape()], (_, x) => x.sum())
  await check([shape(1, 6, 1)], (_, x) => x.sum(1).max())
})

test('sums over many rows, in more than one block', async () => {
  await check([shape(101, 3)], (_, x) => x.square().sum(0))
  await check([shape(101, 3), shape(3)], (_, x, y) => x.mul(y).tanh().sum(-1))
  await check([shape(101, 1)], (_, x) => x.square().sum(0))
  await check([shape(101, 1), shape(3)], (_, x, y) => x.add(y.mul(0)).sum(0))
})

test('sums of values that are equal in every column or row', async () => {
  await check([shape(5, 1)], (_, x) => x.broadcastTo([5, 3]).sum(0))
  await check([shape(60, 1)], (_, x) => x.square().broadcastTo([60, 3]).sum(0))
  await check([shape(5, 1)], (_, x) => x.broadcastTo([5, 3]).sum(-1))
  await check([shape(3)], (_, x) => x.square().broadcastTo([5, 3]).sum(0))
  await check([shape()], (_, x) => x.square().broadcastTo([5, 3]).sum(0))
  await check([shape(5, 3)], (f, x) => f.full([5, 3], 2).sum(0).mul(x))
})

test('equal maxima share the gradient', async () => {
  const run = compile(({ x }) => ({ g: grad(x.max(-1).sum(), [x])[0] }))
  const { g } = await run({ x: array(Float32Array.of(3, 1, 3, 2, 2, 2), [2, 3]) })
  assert.deepEqual([...g.data], [0.5, 0, 0.5, ...[1, 1, 1].map(x => Math.fround(x / 3))])
})

test('slices, splits and concats on each axis', async () => {
  for (const axis of [0, 1, 2]) {
    await check([shape(4, 5, 6)], (_, x) => x.slice(axis, 1, 3).square())
    await check([shape(4, 5, 6)], (_, x) => {
      const [a, b, c] = x.split([1, 2, x.shape[axis] - 3], axis)
      return a.exp().sum().add(b.square().sum()).add(c.sin().sum())
    })
    await check([shape(2, 3, 4), shape(2, 3, 4)], (f, x, y) =>
      f.concat([x.square(), y, x.mul(y)], axis).exp(),
    )
    await check([shape(4, 5, 6)], (f, x) =>
      f.concat([x.slice(axis, 2, 4), x.slice(axis, 0, 3)], axis).square(),
    )
    // Pieces that overlap, and one that nothing covers.
    await check([shape(4, 5, 6)], (_, x) => x.slice(axis, 0, 3).mul(x.slice(axis, 1, 4)))
    // Across the seam of a concat.
    await check([shape(2, 3, 4), shape(2, 3, 4)], (f, x, y) =>
      f.concat([x, y], axis).slice(axis, 1, 3).square(),
    )
  }
  await check([shape(6, 8)], (_, x) => x.slice(0, 1, 5).slice(1, 2, 7).slice(0, 1, 3).square())
  await check([shape(6, 1)], (f, x) => f.concat([x, x.square(), x.exp()], 1))
})

test('chains of movements', async () => {
  await check([shape(2, 3, 4)], (_, x) => x.permute([2, 0, 1]).square())
  await check([shape(2, 3, 4)], (_, x) => x.transpose(0, 2).reshape(4, 6).exp())
  await check([shape(2, 3, 4)], (_, x) => x.reshape(6, 4).T.reshape(2, 12).permute([1, 0]).square())
  await check([shape(2, 12)], (_, x) =>
    x.reshape(2, 3, 4).permute([1, 0, 2]).slice(0, 1, 3).reshape(-1).sin(),
  )
  await check([shape(3, 1, 4)], (_, x) => x.broadcastTo([3, 2, 4]).transpose(0, 1).reshape(6, 4).square())
  await check([shape(3, 4), shape(4, 3)], (_, x, y) => x.T.mul(y).T.add(x))
})

/** The same indices, but not as an input, which is checked: those outside are clamped. */
const computed = <T extends { neg(): T }>(indices: T): T => indices.neg().neg()

test('gather and its scatter-add', async () => {
  const repeated = indices([3, 0, 3, 3, 1, 2], 2, 3)
  await check([shape(4, 5), repeated], (_, x, i) => x.square().gather(i).exp())
  await check([shape(4, 37), repeated], (_, x, i) => x.gather(i).square().sum(-1))
  await check([shape(4, 1), repeated], (_, x, i) => x.gather(i).square())
  await check([shape(4, 5), indices([-7, 9, 2], 3)], (_, x, i) => x.gather(computed(i)).square())
  await check([shape(5, 4), indices([1, 1], 2)], (_, x, i) => x.T.gather(i).square())
  await check([shape(4, 9), indices([1, 1], 2)], (_, x, i) => x.slice(1, 2, 6).gather(i).square())
  await check([shape(4, 5), shape(6, 5), repeated], (_, x, y, i) => x.gather(i).reshape(6, 5).mul(y).sum(0))
})

test('scatterAdd and its gather', async () => {
  const repeated = indices([3, 0, 3, -5, 9, 2], 2, 3)
  await check([shape(2, 3, 5), repeated], (f, x, i) => f.scatterAdd(x.square(), computed(i), 4).sin())
  await check([shape(6, 1), repeated], (f, x, i) => f.scatterAdd(x, computed(i).reshape(6), 7).exp())
  await check([shape(6, 40), shape(4, 40), repeated], (f, x, y, i) =>
    y
      .square()
      .add(f.scatterAdd(x, computed(i).reshape(6), 4))
      .square(),
  )
  await check([shape(1, 4), shape(6, 2), repeated], (f, x, y, i) =>
    f.scatterAdd(x.broadcastTo([6, 4]).slice(1, 1, 3).mul(y), computed(i).reshape(6), 4),
  )
})

const products: [Shape, Shape][] = [
  [
    [5, 7],
    [7, 3],
  ],
  [
    [1, 7],
    [7, 3],
  ],
  [
    [5, 7],
    [7, 1],
  ],
  [
    [5, 1],
    [1, 3],
  ],
  [
    [13, 17],
    [17, 19],
  ],
]
test('matrix products with all four transposes', async () => {
  for (const [[m, k], [, n]] of products) {
    await check([shape(m, k), shape(k, n)], (_, a, b) => a.matmul(b))
    await check([shape(k, m), shape(k, n)], (_, a, b) => a.T.matmul(b))
    await check([shape(m, k), shape(n, k)], (_, a, b) => a.matmul(b.T))
    await check([shape(k, m), shape(n, k)], (_, a, b) => a.T.matmul(b.T))
  }
})
test('batched products with all four transposes', async () => {
  const [m, k, n] = [3, 4, 5]
  await check([shape(2, m, k), shape(2, k, n)], (_, a, b) => a.matmul(b))
  await check([shape(2, k, m), shape(2, k, n)], (_, a, b) => a.T.matmul(b))
  await check([shape(2, m, k), shape(2, n, k)], (_, a, b) => a.matmul(b.T))
  await check([shape(2, k, m), shape(2, n, k)], (_, a, b) => a.T.matmul(b.T))
  await check([shape(2, 2, m, k), shape(2, 2, k, n)], (_, a, b) => a.matmul(b))
  await check([shape(2, 2, m, k), shape(k, n)], (_, a, b) => a.matmul(b))
  await check([shape(2, m, k), shape(n, k)], (_, a, b) => a.matmul(b.T).tanh())
})
test('products of views', async () => {
  await check([shape(6, 9), shape(5, 8)], (_, a, b) => a.slice(1, 2, 7).matmul(b.slice(1, 1, 4)))
  await check([shape(6, 9), shape(5, 9)], (_, a, b) =>
    a
      .slice(0, 2, 6)
      .slice(1, 1, 4)
      .matmul(b.slice(1, 4, 7).T),
  )
  await check([shape(2, 3, 8)], (_, x) => x.slice(2, 0, 4).matmul(x.slice(2, 3, 7).T))
  // Heads: [batch, length, heads, width] to [batch, heads, length, width].
  await check([shape(2, 3, 2, 4)], (_, x) => x.permute([0, 2, 1, 3]).matmul(x.permute([0, 2, 3, 1])))
  await check([shape(3, 4), shape(4)], (_, a, b) => a.matmul(b.broadcastTo([5, 4]).T))
  await check([shape(3, 4), shape(4, 1)], (_, a, b) => a.matmul(b.broadcastTo([4, 3])))
  await check([shape(3, 1), shape(3, 5)], (_, a, b) => a.broadcastTo([3, 3]).T.matmul(b))
  await check([shape(4, 3), shape(2, 3, 5)], (_, a, b) => a.broadcastTo([2, 4, 3]).matmul(b))
  await check([shape(12), shape(12)], (_, a, b) => a.reshape(3, 4).matmul(b.reshape(4, 3)))
  await check([shape(3, 3), shape(3, 3)], (f, a, b) => f.concat([a, b], 1).matmul(f.concat([b, a], 0)))
})
test('products and addends', async () => {
  await check([shape(5, 6), shape(6, 6)], (_, x, w) => x.add(x.matmul(w)).tanh())
  await check([shape(5, 6), shape(6, 6)], (_, x, w) => x.matmul(w).add(x.square().matmul(w)))
  await check([shape(2, 5, 6), shape(6, 6), shape(6)], (_, x, w, b) => x.matmul(w).add(b).add(x))
})

test('a detached tensor has no gradient', async () => {
  const run = compile(({ x, y }) => {
    const [first, second] = grad(x.mul(x.detach()).sum(), [x, y])
    return { first, second }
  })
  const { first, second } = await run({
    x: array(Float32Array.of(2, -3)),
    y: array(new Float32Array(6), [2, 3]),
  })
  assert.deepEqual([...first.data], [2, -3])
  assert.deepEqual([second.shape, ...second.data], [[2, 3], 0, 0, 0, 0, 0, 0], 'of an input that has no part')
})

test('a gradient with respect to an intermediate tensor', async () => {
  const run = compile(({ x }) => {
    const y = x.square()
    const [dx, dy] = grad(y.mul(y).sum(), [x, y])
    return { dx, dy }
  })
  const { dx, dy } = await run({ x: array(Float32Array.of(2)) })
  assert.deepEqual([dx.data[0], dy.data[0]], [32, 8])
})

test('gradients of gradients', async () => {
  const run = compile(({ x }) => {
    const [first] = grad(x.sin().mul(x.exp()).sum(), [x])
    const [second] = grad(first.sum(), [x])
    const [third] = grad(norm([second]).square(), [x])
    return { second, third }
  })
  const x = Float32Array.of(-1, 0.3, 0.9)
  const { second, third } = await run({ x: array(x) })
  // (eˣ sin x)'' = 2 eˣ cos x
  const twice = Array.from(x, v => 2 * Math.exp(v) * Math.cos(v))
  expectNear('second', second.data, twice, 1e-5, 'gradients')
  expectNear(
    'third',
    third.data,
    Array.from(x, (v, i) => 2 * twice[i] * 2 * Math.exp(v) * (Math.cos(v) - Math.sin(v))),
    1e-5,
    'gradients',
  )
})
test('gradients of the gradients of products', async () => {
  await check([shape(3, 4), shape(4, 4)], (_, x, w) => x.matmul(w).tanh().matmul(w.T).square().sum(0))
  const run = compile(({ x, w }) => {
    const [dx] = grad(x.matmul(w).square().sum(), [x])
    return { dw: grad(dx.square().sum(), [w])[0] }
  })
  // |2 x w wᵀ|², differentiated by differences.
  const random = seeded(5)
  const [x, w] = [randomArray([3, 4], random), randomArray([4, 2], random)]
  const value = (w: Reference) => {
    const dx = new Reference(x, [3, 4]).matmul(w).matmul(w.T).mul(2)
    return dx.square().sum().data[0]
  }
  const given = { x: array(x, [3, 4]), w: array(w, [4, 2]) }
  const { dw } = await run(given)
  const expected = differences(value, new Reference(w, [4, 2]))
  expectNear('dw', dw.data, expected, 1e-5, 'gradients', await productsOf(run, given))
})

function differences(value: (x: Reference) => number, x: Reference, step = 1e-4): number[] {
  const moved = (i: number, by: number) =>
    new Reference(
      x.data.map((old, j) => (i === j ? old + by : old)),
      x.shape,
    )
  return Array.from(x.data, (_, i) => (value(moved(i, step)) - value(moved(i, -step))) / (2 * step))
}

/** Cross-entropy of logits, and whether the largest is the target's. */
function entropy(logits: Reference, targets: ArrayLike<number>): { loss: number[]; correct: number[] } {
  const [rows, columns] = logits.shape
  const loss: number[] = []
  const correct: number[] = []
  for (let row = 0; row < rows; row++) {
    const line = logits.data.subarray(row * columns, (row + 1) * columns)
    const largest = Math.max(...line)
    const sum = line.reduce((sum, x) => sum + Math.exp(x - largest), 0)
    loss.push(Math.log(sum) + largest - line[targets[row]])
    correct.push(Number(line[targets[row]] === largest))
  }
  return { loss, correct }
}

test('crossEntropy', async () => {
  const random = seeded(11)
  const logits = new Reference(randomArray([6, 11], random, -3, 3), [6, 11])
  const targets = Int32Array.of(
    0,
    10,
    5,
    5,
    3,
    logits.data.subarray(55).indexOf(Math.max(...logits.data.subarray(55))),
  )
  const run = compile(({ x, t }) => {
    const { loss, correct } = crossEntropy(x.reshape(2, 3, 11), t)
    return { loss, correct, dx: grad(loss.mean(), [x])[0] }
  })
  const { loss, correct, dx } = await run({
    x: array(Float32Array.from(logits.data), [6, 11]),
    t: array(targets, [2, 3]),
  })
  const expected = entropy(logits, targets)
  assert.deepEqual(loss.shape, [2, 3])
  expectNear('loss', loss.data, expected.loss, 1e-6, 'values')
  assert.deepEqual([...correct.data], expected.correct)
  assert.equal(correct.data[5], 1)
  const mean = (x: Reference) => entropy(x, targets).loss.reduce((a, b) => a + b) / 6
  expectNear('dx', dx.data, differences(mean, logits), 1e-6, 'gradients')
})

test('linearCrossEntropy in several chunks is one product and its cross-entropy', async () => {
  // Rows of 16,001 logits: more than two chunks, the last one smaller; on a GPU two, since it may give no more for all.
  const [tokens, width, vocabulary] = [gpuPrecision ? 1100 : 2100, 3, 16001]
  const random = seeded(12)
  const [x, w] = [randomArray([tokens, width], random), randomArray([vocabulary, width], random, -2, 2)]
  const targets = Int32Array.from({ length: tokens }, () => random() * vocabulary)
  const both = (head: (x: Tensor, w: Tensor, t: Tensor) => { loss: Tensor; correct: Tensor }) =>
    compile(({ x, w, t }) => {
      const { loss, correct } = head(x, w, t)
      const [dx, dw] = grad(loss.mean(), [x, w])
      return { loss, correct, dx, dw }
    })({ x: array(x, [tokens, width]), w: array(w, [vocabulary, width]), t: array(targets) })
  const chunked = await both(linearCrossEntropy)
  const whole = await both((x, w, t) => crossEntropy(x.matmul(w.T), t))
  for (const name of ['loss', 'dx', 'dw'] as const) {
    const scale = Math.max(...Array.from(whole[name].data, Math.abs))
    expectNear(
      name,
      chunked[name].data.map(v => v / scale),
      whole[name].data.map(v => v / scale),
      1e-5,
      name === 'loss' ? 'values' : 'gradients',
      2,
    )
  }
  assert.deepEqual(chunked.correct.data, whole.correct.data)
  // One row of the whole in float64.
  const logits = Reference.make([1, vocabulary], ([, j]) =>
    [0, 1, 2].reduce((sum, k) => sum + x[(tokens - 1) * 3 + k] * w[j * 3 + k], 0),
  )
  expectNear(
    'the last loss',
    [chunked.loss.data[tokens - 1]],
    entropy(logits, [targets[tokens - 1]]).loss,
    1e-6,
    'values',
    1,
  )
})

test('a step in the shape of a network', async () => {
  const body = <T extends import('../support/reference.ts').Maths<T>>(
    f: Tools<T>,
    x: T,
    e: T,
    p: T,
    g: T,
  ): T => {
    const [a, b] = f.layerNorm(x).mul(g).matmul(e.T).split([6, 6])
    const mixed = f.gelu(a).mul(b)
    return x.add(f.concat([mixed.slice(1, 0, 3), f.softmax(mixed.slice(1, 3, 6))]).matmul(p.T))
  }
  await check([shape(7, 5), shape(12, 5), shape(5, 6), shape(5)], body)
})

test('grad refuses a loss that is not a scalar', async () => {
  const x: NDArray = array(Float32Array.of(1, 2))
  await assert.rejects(compile(({ x }) => ({ g: grad(x, [x])[0] }))({ x }), /ShapeError: grad: .*\[2\]/)
})

/** What lies between an x [4, 6] and a loss, and a loss in which it has a part: maybe another than that of x. */
const between46: Record<
  string,
  { of: (x: Tensor) => Tensor; loss: (y: Tensor, x: Tensor, w: Tensor) => Tensor }
> = {
  'a transpose in products': {
    of: x => x.T,
    loss: (y, x, w) => y.matmul(x).square().sum().add(w.matmul(y).sum()),
  },
  'the transpose of a transpose': {
    of: x => x.T.T,
    loss: (y, x, w) => y.matmul(w).square().mul(x.matmul(w)).sum(),
  },
  'batched transposes': {
    of: x => x.reshape(2, 2, 6).T,
    loss: y =>
      y
        .matmul(y.T)
        .add(y.permute([0, 2, 1]).square().sum())
        .sum(),
  },
  'a reshape of which there is another': {
    of: x => x.reshape(2, 2, 6),
    loss: (y, x, w) => y.matmul(w).square().sum().add(y.reshape(24).exp().sum()).add(x.reshape(24).sum()),
  },
  'a reshape that is undone': {
    of: x => x.reshape(24),
    loss: (y, x) => y.reshape(4, 6).sub(x.mul(2)).exp().sum(),
  },
  'a product over many rows': {
    of: x => x.reshape(2, 2, 6).matmul(x.T.slice(1, 0, 3)),
    loss: y =>
      y
        .matmul(y.reshape(4, 3).slice(0, 0, 3))
        .square()
        .sum(),
  },
  'a permutation that goes on': {
    of: x => x.reshape(2, 2, 6).permute([2, 0, 1]),
    loss: y => y.permute([1, 2, 0]).slice(2, 1, 4).square().sum(),
  },
  'a broadcast that goes on': {
    of: x => x.sum(0, true).broadcastTo([3, 6]),
    loss: y => y.broadcastTo([2, 3, 6]).slice(2, 1, 4).square().sum().add(y.sin().sum()),
  },
  'a result and its slices': {
    of: x => x.exp(),
    loss: (y, x) =>
      y
        .slice(0, 1, 3)
        .slice(1, 0, 2)
        .square()
        .sum()
        .add(y.mul(x).slice(1, 2, 6).sum()),
  },
  'a slice that is sliced': {
    of: x => x.square().slice(1, 1, 5),
    loss: (y, x) =>
      y
        .slice(1, 0, 2)
        .sin()
        .sum()
        .add(x.square().slice(1, 1, 3).sum()),
  },
  'a concat and its parts': {
    of: x => concat([x, x.exp(), x]),
    loss: (y, x) =>
      y
        .slice(1, 0, 6)
        .square()
        .sum()
        .add(y.slice(1, 7, 9).sum())
        .add(x.exp().sum()),
  },
  'what a slice might be made from': {
    of: x => x.slice(1, 0, 3).exp(),
    loss: (y, x) =>
      y
        .square()
        .sum()
        .add(x.exp().slice(1, 0, 3).sum()),
  },
  'a result and its mean': {
    of: x => x.exp(),
    loss: y => y.sub(y.mean(-1, true)).slice(1, 0, 4).square().sum(),
  },
  'logits of every token': {
    of: x => x.reshape(2, 2, 6).matmul(x.T),
    loss: y => crossEntropy(y.reshape(-1, 4), arange(4)).loss.mean(),
  },
}
for (const [name, { of, loss }] of Object.entries(between46)) {
  test(`a gradient with respect to ${name}`, async () => {
    const random = seeded(3)
    const inputs = {
      x: array(randomArray([4, 6], random), [4, 6]),
      w: array(randomArray([6, 6], random), [6, 6]),
    }
    /** The gradients, and from that with respect to y once more. */
    const gradients = (x: Tensor, y: Tensor, w: Tensor) => {
      const [dy, dx] = grad(loss(y, x, w), [y, x])
      return { dy, dx, second: grad(dy.square().sum(), [y])[0] }
    }
    const run = compile(({ x, w }) => {
      const y = of(x)
      return { y, ...gradients(x, y, w) }
    })
    const found = await run(inputs)
    // The same with an input in its place, and what comes before it.
    const expected = await compile(({ x, y, w }) => {
      const { dy, dx, second } = gradients(x, y, w)
      return { dy, second, dx: dx.add(grad(of(x).mul(dy.detach()).sum(), [x])[0]) }
    })({ ...inputs, y: found.y })
    const products = await productsOf(run, inputs)
    for (const which of ['dy', 'dx', 'second'] as const) {
      expectNear(which, found[which].data, expected[which].data, 1e-5, 'gradients', products)
      assert.ok(expected[which].data.some(value => value !== 0))
    }
  })
}

test('grad refuses tensors that would get zeros by mistake', async () => {
  const x = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const asking = (of: (x: Tensor) => Tensor, loss: (x: Tensor) => Tensor) =>
    compile(({ x }) => ({ g: grad(loss(x), [x, of(x)])[1] }))({ x })
  await assert.rejects(
    asking(
      x => x.exp(),
      x => x.sum(),
    ),
    /^ShapeError: grad: tensor 1 .*float32 \[2, 2\], is computed \(by exp\), .*: ask for the tensor that was used/,
  )
  await assert.rejects(
    asking(
      () => full([2, 2], 1),
      x => x.mul(full([2, 2], 1)).sum(),
    ),
    /^ShapeError: grad: tensor 1 .* is a constant.* variable or an input/,
  )
  await assert.rejects(
    asking(
      x => x.toInt(),
      x => x.sum(),
    ),
    /^ShapeError: grad: tensor 1 .*int32 \[2, 2\], has no gradient/,
  )
})
