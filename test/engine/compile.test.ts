import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Inputs,
  ShapeError,
  Tensor,
  type Variable,
  arange,
  array,
  assign,
  attention,
  compile,
  concat,
  cpuBackend,
  crossEntropy,
  full,
  gelu,
  grad,
  layerNorm,
  linearCrossEntropy,
  norm,
  randomNormal,
  randomUniform,
  scatterAdd,
  useBackend,
  variable,
  where,
} from '../../engine/index.ts'
import { planMemory } from '../../engine/compiler/memory-plan.ts'
import { gpuPrecision, makeBackend, startBackend } from '../support/backend.ts'
import { randomArray, seeded } from '../support/reference.ts'
import { expectNear, expectSmall, productsOf } from '../support/tolerance.ts'

const backend = await startBackend()

const floats = (...values: number[]) => array(Float32Array.from(values))
const counting = (...shape: number[]) =>
  array(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
    shape,
  )
const identity8 = array(
  Float32Array.from({ length: 64 }, (_, i) => Number(i % 9 === 0)),
  [8, 8],
)
const numbers = async (target: Variable) => [...(await target.read()).data]

test('assign: all reads see the value before the call', async () => {
  const v = variable(floats(1, 2, 3))
  const run = compile(() => {
    assign(v, v.mul(10))
    return { before: v, doubled: v.mul(2), part: v.slice(0, 1, 3), sum: v.sum() }
  })
  const { before, doubled, part, sum } = await run()
  assert.deepEqual([...before.data], [1, 2, 3])
  assert.deepEqual([...doubled.data], [2, 4, 6])
  assert.deepEqual([...part.data], [2, 3])
  assert.equal(sum.item(), 6)
  assert.deepEqual(await numbers(v), [10, 20, 30])
})

test('assign: variables swap, in a circle as well', async () => {
  const [a, b, c] = [floats(1, 1), floats(2, 2), floats(3, 3)].map(value => variable(value))
  await compile(() => {
    assign(a, b)
    assign(b, a)
  })()
  assert.deepEqual(
    [await numbers(a), await numbers(b)],
    [
      [2, 2],
      [1, 1],
    ],
  )
  await compile(() => {
    assign(a, b)
    assign(b, c)
    assign(c, a)
  })()
  assert.deepEqual(
    [await numbers(a), await numbers(b), await numbers(c)],
    [
      [1, 1],
      [3, 3],
      [2, 2],
    ],
  )
})

test('assign: views of itself and of others', async () => {
  const [a, b] = [variable(counting(2, 3)), variable(counting(3, 2))]
  await compile(() => {
    assign(a, b.T)
    assign(b, a.T)
  })()
  assert.deepEqual(await numbers(a), [0, 2, 4, 1, 3, 5])
  assert.deepEqual(await numbers(b), [0, 3, 1, 4, 2, 5])
  const square = variable(counting(3, 3))
  await compile(() => assign(square, square.T))()
  assert.deepEqual(await numbers(square), [0, 3, 6, 1, 4, 7, 2, 5, 8])
  await compile(() => assign(square, concat([square.slice(0, 1, 3), square.slice(0, 0, 1)], 0)))()
  assert.deepEqual(await numbers(square), [1, 4, 7, 2, 5, 8, 0, 3, 6])
  await compile(() => assign(square, square.reshape(9).slice(0, 3, 6).broadcastTo([3, 3])))()
  assert.deepEqual(await numbers(square), [2, 5, 8, 2, 5, 8, 2, 5, 8])
  await compile(() => assign(square, square.add(square.T)))()
  assert.deepEqual(await numbers(square), [4, 7, 10, 7, 10, 13, 10, 13, 16])
})

test('assign: in place, with others that read the old value', async () => {
  const [w, m] = [variable(counting(6, 4)), variable(full([6, 4], 1))]
  const run = compile(({ x }) => {
    const product = x.matmul(w.T)
    const next = m.mul(0.5).add(w)
    assign(m, next)
    assign(w, w.sub(next.mul(0.1)))
    return { product, total: w.sum(), next, again: next.exp().sum(-1) }
  })
  const { product, total, next } = await run({ x: array(new Float32Array(4).fill(1), [1, 4]) })
  assert.deepEqual([...product.data], [6, 22, 38, 54, 70, 86])
  assert.equal(total.item(), 276)
  assert.deepEqual(
    [...next.data],
    Array.from({ length: 24 }, (_, i) => 0.5 + i),
  )
  assert.deepEqual(await numbers(m), [...next.data])
  assert.deepEqual(
    await numbers(w),
    Array.from({ length: 24 }, (_, i) => Math.fround(i - Math.fround((0.5 + i) * Math.fround(0.1)))),
  )
})

test('assign: one tensor to two variables, and one that others go on from', async () => {
  const [a, b, c] = [1, 2, 3].map(value => variable(full([5, 3], value)))
  const run = compile(({ x }) => {
    const sum = x.add(1)
    assign(a, sum)
    assign(b, sum)
    assign(c, sum.mul(2).sin())
  })
  await run({ x: counting(5, 3) })
  const expected = Array.from({ length: 15 }, (_, i) => i + 1)
  assert.deepEqual(await numbers(a), expected)
  assert.deepEqual(await numbers(b), expected)
  ;(await numbers(c)).forEach((value, i) => assert.ok(Math.abs(value - Math.sin(2 * expected[i])) < 1e-6))
})

test('assign: what is computed elsewhere is not overwritten on its way', async () => {
  // The product is read by one kernel, which could take over its memory, and assigned by a copy: it reads v.
  const v = variable(full([8, 8], 2))
  const run = compile(({ x }) => {
    const product = x.matmul(v)
    assign(v, product)
    return { next: product.add(1) }
  })
  const { next } = await run({ x: identity8 })
  assert.deepEqual(await numbers(v), Array<number>(64).fill(2))
  assert.deepEqual([...next.data], Array<number>(64).fill(3))
})

test('assign: a product into the variable, once everything has read the old value', async () => {
  const [v, w, sum] = [variable(full([8, 8], 2)), variable(full([8, 8], 3)), variable(full([8, 8], 1))]
  const run = compile(({ x }) => {
    const product = x.matmul(w)
    assign(v, product)
    assign(w, x.mul(5).matmul(product))
    assign(sum, sum.add(x.matmul(x)))
    return { old: v.add(w), next: product.mul(2) }
  })
  const { program } = await run.prepare({ x: identity8 })
  const targets = program.instructions.flatMap(({ work }) =>
    work.kind === 'matmul' ? [work.c.buffer.allocation] : [],
  )
  assert.ok(
    targets.some(({ variable }) => variable === v),
    'written in place',
  )
  const { old, next } = await run({ x: identity8 })
  assert.deepEqual([...old.data], Array<number>(64).fill(5))
  assert.deepEqual([...next.data], Array<number>(64).fill(6))
  assert.deepEqual(await numbers(v), Array<number>(64).fill(3))
  assert.deepEqual(await numbers(w), Array<number>(64).fill(15))
  assert.deepEqual(
    await numbers(sum),
    [...identity8.data].map(value => value + 1),
  )
})

test('a piece of a result is not written before the memory that it takes over', async () => {
  const run = compile(({ x, y }) => {
    // This one could run first, into the memory of the product, of which the other piece is the only reader.
    const other = y.exp()
    const product = x.matmul(x)
    return { joined: concat([product.slice(1, 0, 4).mul(2), other], 1) }
  })
  const { joined } = await run({
    x: identity8,
    y: array(new Float32Array(32), [8, 4]),
  })
  const expected = Array.from({ length: 64 }, (_, i) => (i % 8 < 4 ? 2 * Number(i % 9 === 0) : 1))
  assert.deepEqual([...joined.data], expected)
})

test('assign: pieces, one of them made of the old value', async () => {
  const v = variable(counting(2, 4))
  const run = compile(({ x }) => {
    const first = x.add(1)
    assign(v, concat([v.slice(1, 2, 4).add(v.slice(1, 0, 2)), first.slice(1, 0, 2)], 1))
    return { first }
  })
  await run({ x: counting(2, 3) })
  assert.deepEqual(await numbers(v), [2, 4, 1, 2, 10, 12, 4, 5])
})

test('assign: a new value and the old one, read together', async () => {
  const v = variable(counting(3, 3))
  const run = compile(() => {
    const next = v.mul(2)
    assign(v, next)
    return { both: next.matmul(v), sum: next.T.add(v) }
  })
  const { both, sum } = await run()
  assert.deepEqual([...both.data], [30, 36, 42, 84, 108, 132, 138, 180, 222])
  assert.deepEqual([...sum.data], [0, 7, 14, 5, 12, 19, 10, 17, 24])
  assert.deepEqual(await numbers(v), [0, 2, 4, 6, 8, 10, 12, 14, 16])
})

test('assign: what still reads the old value is waited for', async () => {
  // Both kernels are one item, so that one thread is free for the second while another does the first.
  const v = variable(full([40, 20_000], 0))
  const run = compile(({ next }) => {
    assign(v, next.broadcastTo([40, 20_000]))
    return { sum: v.sin().cos().exp().sum(-1) }
  })
  for (let i = 0; i < 5; i++) {
    const { sum } = await run({ next: i + 1 })
    const expected = 20_000 * Math.exp(Math.cos(Math.sin(i)))
    for (const value of sum.data) expectSmall('sum', Math.abs(value / expected - 1), 1e-4, 'values')
  }
})

test('a square matrix and its transpose, of enough rows to run block by block', async () => {
  const size = 400
  const run = compile(({ x }) => {
    const doubled = x.mul(2)
    return { doubled, sum: doubled.T.add(doubled) }
  })
  const { doubled, sum } = await run({ x: counting(size, size) })
  doubled.data.forEach((value, i) => assert.equal(value, 2 * i))
  sum.data.forEach((value, i) => assert.equal(value, 2 * i + 2 * ((i % size) * size + Math.floor(i / size))))
})

test('assign throws the second time, outside of compile, and for another shape', async () => {
  const v = variable(floats(1, 2))
  assert.throws(() => assign(v, full([2], 0)), /compile/)
  const twice = compile(() => {
    assign(v, v.add(1))
    assign(v, v.add(2))
  })
  await assert.rejects(twice(), /already/)
  await assert.rejects(compile(() => assign(v, full([3], 0)))(), /ShapeError: .*\[2\].*\[3\]/)
  await assert.rejects(compile(() => assign(v, arange(2)))(), /ShapeError: .*float32.*int32/)
  assert.deepEqual(await numbers(v), [1, 2])
})

test('variables are written and read', async () => {
  const v = variable(floats(1, 2))
  await v.write(floats(3, 4))
  assert.deepEqual(await numbers(v), [3, 4])
  await assert.rejects(v.write(floats(3, 4, 5)), /ShapeError: .*\[2\].*\[3\]/)
  await assert.rejects(v.write(array(Int32Array.of(1, 2))), /ShapeError: .*float32.*int32/)
  const i = variable(arange(3).mul(2))
  assert.deepEqual((await i.read()).data, Int32Array.of(0, 2, 4))
})

test('variables that start from a graph are the same wherever they are first used', async () => {
  const make = () => variable(randomNormal([50, 20], 3))
  const expected = await make().read()
  const v = make()
  const [first, second, read] = await Promise.all([
    compile(() => ({ v: v.add(0) }))(),
    compile(() => ({ v: v.mul(1) }))(),
    v.read(),
  ])
  for (const { data } of [first.v, second.v, read]) assert.deepEqual(data, expected.data)
})

test('outputs that are inputs, views, constants and variables', async () => {
  const v = variable(floats(5, 6))
  const run = compile(({ x }) => ({
    x,
    transposed: x.T,
    row: x.slice(0, 1, 2),
    column: x.slice(1, 1, 2),
    wide: x.slice(0, 0, 1).broadcastTo([2, 3]),
    flat: x.reshape(-1),
    constant: full([2, 2], 7),
    scalar: full([], -1.5),
    count: arange(4),
    part: arange(12).reshape(3, 4).T.slice(0, 1, 3),
    folded: arange(6).reshape(2, 3).T.reshape(6),
    v,
    again: x,
  }))
  const result = await run({ x: counting(2, 3) })
  const plain = Object.fromEntries(Object.entries(result).map(([name, { data }]) => [name, [...data]]))
  assert.deepEqual(plain, {
    x: [0, 1, 2, 3, 4, 5],
    transposed: [0, 3, 1, 4, 2, 5],
    row: [3, 4, 5],
    column: [1, 4],
    wide: [0, 1, 2, 0, 1, 2],
    flat: [0, 1, 2, 3, 4, 5],
    constant: [7, 7, 7, 7],
    scalar: [-1.5],
    count: [0, 1, 2, 3],
    part: [1, 5, 9, 2, 6, 10],
    folded: [0, 3, 1, 4, 2, 5],
    v: [5, 6],
    again: [0, 1, 2, 3, 4, 5],
  })
  assert.deepEqual(result.transposed.shape, [3, 2])
  assert.ok(result.count.data instanceof Int32Array)
})

test('constants that no text of JSON tells apart', async () => {
  const run = compile(({ x }) => ({
    up: x.maximum(-Infinity),
    down: x.minimum(Infinity),
    nan: x.add(NaN),
    zero: full([], 1).div(full([], 0)),
    minus: full([], 1).div(full([], -0)),
  }))
  const { up, down, nan, zero, minus } = await run({ x: floats(1, -2) })
  assert.deepEqual([...up.data, ...down.data], [1, -2, 1, -2])
  assert.deepEqual([...nan.data], [NaN, NaN])
  assert.equal(zero.item(), Infinity)
  // A GPU may leave the sign of a zero away.
  assert.equal(gpuPrecision ? Math.abs(minus.item()) : -minus.item(), Infinity)
})

test('one function for several shapes, which share variables', async () => {
  const v = variable(floats(0))
  const run = compile(({ x }) => {
    assign(v, v.add(x.sum().reshape(1)))
    return { twice: x.mul(2) }
  })
  for (const size of [3, 50, 3, 1000]) {
    const { twice } = await run({ x: counting(size) })
    assert.equal(twice.data[size - 1], 2 * (size - 1))
  }
  assert.deepEqual(await numbers(v), [3 + 1225 + 3 + 499500])
})

test('a number is a float32 scalar, and inputs come by name', async () => {
  const run = compile(({ a, b }) => ({ difference: a.sub(b) }))
  assert.equal((await run({ a: 5, b: 3 })).difference.item(), 2)
  assert.equal((await run({ b: 3, a: 5 })).difference.item(), 2)
})

test('inputs that are missing or do not fit', async () => {
  const run = compile(({ x, y }) => ({ sum: x.add(y) }))
  await assert.rejects(run({ x: floats(1) }), /'?y'?.*did not give/)
  await assert.rejects(run(), /did not give/)
  await assert.rejects(run({ x: floats(1, 2), y: floats(1, 2, 3) }), /ShapeError: add: .*\[2\].*\[3\]/)
  await assert.rejects(run({ x: floats(1), y: array(Int32Array.of(1)) }), /ShapeError: add: .*float32.*int32/)
  assert.throws(() => array(new Float32Array(5), [2, 3]), /ShapeError: .*5.*\[2, 3\]/)
  // And the function still works.
  assert.equal((await run({ x: floats(1), y: floats(2) })).sum.item(), 3)
})

test('a function throws what its body throws, every time', async () => {
  const run = compile(() => {
    throw new RangeError('mine')
  })
  for (let i = 0; i < 2; i++) await assert.rejects(run(), /RangeError: mine/)
})

test('tensors of another function are refused', async () => {
  let leaked: Tensor | undefined
  await compile(({ x }) => {
    leaked = x
    return { x }
  })({ x: floats(1, 2) })
  await assert.rejects(compile(() => ({ y: leaked!.add(1) }))(), /input 'x'/)
})

const wrong: Record<string, [body: (x: Tensor, i: Tensor) => unknown, message: RegExp]> = {
  add: [x => x.add(full([4, 3], 1)), /add: .*\[3, 4\].*\[4, 3\]/],
  matmul: [x => x.matmul(full([5, 2], 1)), /matmul: .*\[3, 4\].*\[5, 2\]/],
  'matmul of batches': [
    x => x.reshape(1, 3, 4).matmul(full([2, 4, 3], 1)),
    /matmul: .*\[1, 3, 4\].*\[2, 4, 3\]/,
  ],
  'matmul of a vector': [x => x.matmul(full([4], 1)), /matmul: .*\[3, 4\].*\[4\]/],
  'matmul of int32': [(_, i) => i.matmul(i), /matmul: .*int32/],
  reshape: [x => x.reshape(5, -1), /reshape: .*\[3, 4\].*\[5, -1\]/],
  'reshape with two unknowns': [x => x.reshape(-1, -1), /reshape: .*\[3, 4\].*\[-1, -1\]/],
  broadcastTo: [x => x.broadcastTo([3, 5]), /broadcastTo: .*\[3, 4\].*\[3, 5\]/],
  'broadcastTo fewer': [x => x.broadcastTo([4]), /broadcastTo: .*\[3, 4\].*\[4\]/],
  slice: [x => x.slice(1, 2, 5), /slice: .*2.*5.*\[3, 4\]/],
  split: [x => x.split([1, 2]), /split: .*\[1, 2\].*\[3, 4\]/],
  sum: [x => x.sum(2), /sum: .*axis 2.*\[3, 4\]/],
  'sum of int32': [(_, i) => i.sum(), /sum: .*int32/],
  permute: [x => x.permute([0, 0]), /permute: .*\[0, 0\].*\[3, 4\]/],
  concat: [x => concat([x, full([3, 3], 0)], 0), /concat: .*\[3, 4\].*\[3, 3\]/],
  where: [x => where(x, x, x), /where: .*bool.*float32/],
  'where of two shapes': [x => where(x.less(0), x, full([4, 3], 0)), /where: .*\[3, 4\].*\[4, 3\]/],
  gather: [x => x.gather(x), /gather: .*int32.*float32/],
  'gather of three axes': [(x, i) => x.reshape(3, 2, 2).gather(i), /gather: .*\[3, 2, 2\]/],
  'exp of int32': [(_, i) => i.exp(), /exp: .*int32/],
  'int32 over int32': [(_, i) => i.div(i), /divide: .*int32/],
  'int32 times a fraction': [(_, i) => i.mul(0.5), /multiply: .*0\.5.*int32/],
  'truth times truth': [x => x.less(0).mul(x.less(1)), /multiply: .*bool/],
  'and of numbers': [x => x.and(x), /and: .*float32/],
  crossEntropy: [(x, i) => crossEntropy(x, i), /crossEntropy: .*int32 \[3\].*int32 \[2\]/],
  linearCrossEntropy: [
    (x, i) => linearCrossEntropy(x, full([7, 5], 0), i),
    /linearCrossEntropy: .*\[3, 4\].*\[7, 5\]/,
  ],
  scatterAdd: [(x, i) => scatterAdd(x, i, 5), /scatterAdd: .*\[3, 4\].*\[2\]/],
  attention: [
    x => attention(x.reshape(1, 3, 4), x.reshape(1, 4, 3), x.reshape(1, 3, 4)),
    /attention: .*\[1, 3, 4\], \[1, 4, 3\]/,
  ],
  'attention without a batch': [x => attention(x, x, x), /attention: .*\[3, 4\]/],
  'attention of heads': [
    x => attention(x.reshape(1, 3, 4), x.reshape(1, 3, 4), x.reshape(1, 3, 4), { heads: 3 }),
    /attention: .*3 heads/,
  ],
  grad: [x => grad(x.sum(0), [x]), /grad: .*\[4\]/],
}
for (const [name, [body, message]] of Object.entries(wrong)) {
  test(`refused where it is written: ${name}`, async () => {
    let thrown: unknown
    await compile(({ x, i }) => {
      try {
        body(x, i)
      } catch (error) {
        thrown = error
      }
    })({ x: counting(3, 4), i: array(Int32Array.of(0, 1)) })
    assert.ok(thrown instanceof ShapeError, `threw ${String(thrown)}`)
    assert.match(String(thrown), message)
    assert.match(thrown.stack ?? '', /compile\.test\.ts/)
  })
}

test('truth values cannot leave a function', async () => {
  await assert.rejects(compile(({ x }) => ({ y: x.less(0) }))({ x: floats(1) }), /ShapeError: .*'y'.*bool/)
})

test('the plan of memory: what is alive at once never overlaps', () => {
  const random = seeded(1)
  for (let round = 0; round < 300; round++) {
    const lifetimes = Array.from({ length: 1 + Math.floor(random() * 40) }, () => {
      const first = Math.floor(random() * 30)
      return { bytes: Math.floor(random() ** 3 * 5000), first, last: first + Math.floor(random() * 8) }
    })
    const { addresses, bytes } = planMemory(lifetimes)
    const atOnce = Array.from({ length: 40 }, (_, at) =>
      lifetimes.reduce((sum, { first, last, bytes }) => sum + (first <= at && at <= last ? bytes : 0), 0),
    )
    assert.ok(bytes >= Math.max(...atOnce))
    lifetimes.forEach((a, i) => {
      assert.ok(addresses[i] % 64 === 0 && addresses[i] + a.bytes <= bytes)
      lifetimes.slice(0, i).forEach((b, j) => {
        const together = a.first <= b.last && b.first <= a.last
        const apart = addresses[i] + a.bytes <= addresses[j] || addresses[j] + b.bytes <= addresses[i]
        assert.ok(!together || apart || a.bytes === 0 || b.bytes === 0, `round ${round}: ${i} and ${j}`)
      })
    })
  }
})

test('the plan of memory reuses what is free', () => {
  const lifetimes = Array.from({ length: 10 }, (_, i) => ({ bytes: 64, first: 2 * i, last: 2 * i + 1 }))
  assert.equal(planMemory(lifetimes).bytes, 64)
})

/** A small network with a training step of AdamW. */
function network(width: number, vocabulary: number) {
  const weights = {
    embedding: variable(randomNormal([vocabulary, width], 1, 0.3)),
    expand: variable(randomNormal([2 * width, width], 2, 0.3)),
    project: variable(randomNormal([width, width], 3, 0.3)),
    gain: variable(full([width], 1)),
    output: variable(randomNormal([vocabulary, width], 4, 0.3)),
  }
  const parameters = Object.values(weights)
  const moments = parameters.map(({ shape }) => [variable(full(shape, 0)), variable(full(shape, 0))])
  const step = compile(({ tokens, targets, rate }) => {
    const { embedding, expand, project, gain, output } = weights
    let x = embedding.gather(tokens)
    for (let block = 0; block < 2; block++) {
      const [a, b] = layerNorm(x).mul(gain).matmul(expand.T).split([width, width])
      x = x.add(a.mul(gelu(b)).matmul(project.T))
    }
    const { loss, correct } = linearCrossEntropy(layerNorm(x).mul(gain), output, targets)
    const mean = loss.mean()
    const gradients = grad(mean, parameters)
    const clip = norm(gradients)
    parameters.forEach((parameter, i) => {
      const g = gradients[i].mul(full([], 1).minimum(clip.add(1e-6).reciprocal()))
      const [m, v] = moments[i]
      const [first, second] = [m.mul(0.9).add(g.mul(0.1)), v.mul(0.95).add(g.square().mul(0.05))]
      assign(m, first)
      assign(v, second)
      assign(parameter, parameter.sub(rate.mul(first.div(second.sqrt().add(1e-8)))))
    })
    return { loss: mean, accuracy: correct.mean(), norm: clip }
  })
  return { step, parameters }
}

function batch(seed: number, count: number, length: number, vocabulary: number): Inputs {
  const random = seeded(seed)
  const tokens = Int32Array.from({ length: count * length }, () => random() * vocabulary)
  const targets = tokens.map(token => (token * 3 + 1) % vocabulary)
  return { tokens: array(tokens, [count, length]), targets: array(targets, [count, length]), rate: 0.01 }
}

test('training learns, and repeats to the last bit on any number of threads', async () => {
  const runs: { losses: number[]; weights: (Float32Array | Int32Array)[] }[] = []
  for (const threads of [1, 2, 3]) {
    // Threads are the CPU's; of a GPU each is another device.
    const other = await makeBackend({ threads })
    useBackend(other)
    try {
      const { step, parameters } = network(24, 61)
      const losses: number[] = []
      for (let i = 0; i < 12; i++) {
        // 640 tokens: rows in blocks, which threads take as they come.
        const { loss, norm } = await step(batch(i, 5, 128, 61))
        losses.push(loss.item(), norm.item())
      }
      const weights = await Promise.all(parameters.map(async parameter => (await parameter.read()).data))
      runs.push({ losses, weights })
    } finally {
      useBackend(backend)
      await other.close()
    }
  }
  const { losses } = runs[0]
  assert.ok(losses[22] < losses[0] - 1, `the loss falls: ${losses}`)
  assert.deepEqual(runs[1], runs[0])
  assert.deepEqual(runs[2], runs[0])
})

test(
  'programs of one thread and of all of them take turns',
  { skip: gpuPrecision !== undefined },
  async () => {
    const results: number[][] = []
    // The short sequences' program has less work than this, that of the long ones has more.
    for (const alone of [0, 4e6, Infinity]) {
      const other = await cpuBackend({ threads: 3, alone })
      useBackend(other)
      try {
        const { step } = network(16, 40)
        const losses: number[] = []
        for (let i = 0; i < 40; i++) {
          const { loss, norm } = await step(batch(i, 2, i % 3 === 0 ? 128 : 4, 40))
          losses.push(loss.item(), norm.item())
        }
        results.push(losses)
      } finally {
        useBackend(backend)
        await other.close()
      }
    }
    assert.deepEqual(results[1], results[0])
    assert.deepEqual(results[2], results[0])
  },
)

test('calls that are queued at once run one after the other', async () => {
  const results: number[][] = []
  for (const queued of [false, true]) {
    const { step } = network(16, 40)
    const losses: number[] = []
    const calls: Promise<void>[] = []
    for (let i = 0; i < 8; i++) {
      // Of several shapes, so that programs are compiled while others run, and memory moves.
      const call = step(batch(i, 2, 8 << (i % 4), 40)).then(({ loss }) => void (losses[i] = loss.item()))
      if (queued) calls.push(call)
      else await call
    }
    await Promise.all(calls)
    results.push(losses)
  }
  // The first call of each shape may wait for its program: what is compared is that all went well.
  assert.ok(
    results.flat().every(loss => loss > 0 && loss < 10),
    String(results),
  )
})

test('outputs are right while other programs are being made', async () => {
  const run = compile(({ x }) => ({ y: x.mul(2) }))
  const calls = Array.from({ length: 12 }, async (_, i) => {
    const size = 1000 * (i + 1) ** 2
    const { y } = await run({ x: array(new Float32Array(size).fill(i + 1)) })
    assert.ok(
      y.data.every(value => value === 2 * (i + 1)),
      `call ${i}`,
    )
  })
  await Promise.all(calls)
})

test('outputs are read where they were written, though the arena has moved meanwhile', async () => {
  const fresh = await makeBackend()
  useBackend(fresh)
  try {
    const slow = compile(({ x }) => {
      let y = x
      for (let i = 0; i < 30; i++) y = y.matmul(x)
      return { y }
    })
    const x = array(
      Float32Array.from({ length: 400 ** 2 }, (_, i) => Number(i % 401 === 0)),
      [400, 400],
    )
    await slow({ x })
    for (let i = 1; i < 4; i++) {
      const running = slow({ x })
      // More memory than any program before, taken while the other one runs.
      const large = array(new Float32Array(i * 1000 ** 2), [i * 1000, 1000])
      await compile(({ x }) => ({ y: x.add(i).T })).prepare({ x: large })
      assert.deepEqual((await running).y.data, x.data)
    }
  } finally {
    useBackend(backend)
    await fresh.close()
  }
})

test('calls may be queued without waiting, in the order in which they take effect', async () => {
  const v = variable(floats(1))
  const [double, increase] = [compile(() => assign(v, v.mul(2))), compile(({ x }) => assign(v, v.add(x)))]
  const x = Float32Array.of(1)
  // None has been compiled; the array is used again before its call has had its turn.
  const calls: Promise<unknown>[] = [double(), increase({ x: array(x) })]
  x[0] = 5
  const early = v.read()
  calls.push(double(), increase({ x: array(x) }), v.write(floats(7)), double())
  const late = v.read()
  await Promise.all(calls)
  assert.deepEqual([(await early).data[0], (await late).data[0]], [3, 14])
})

test('variables that start from variables', async () => {
  const a = variable(randomUniform([9], 1))
  const b = variable(a.mul(2))
  const c = variable(b)
  const run = compile(() => ({ a, b, c }))
  const results = await run()
  assert.ok(results.a.data.some(value => value > 0))
  assert.deepEqual(
    [...results.b.data],
    Array.from(results.a.data, value => 2 * value),
  )
  assert.deepEqual(results.c.data, results.b.data)
})

test('scatterAdd onto a variable', async () => {
  const table = variable(counting(6, 40))
  const update = compile(({ rows, ids }) => {
    // Computed indices are clamped.
    const clamped = ids.add(1).sub(1)
    const old = table.gather(clamped)
    assign(table, table.add(scatterAdd(rows.add(old), clamped, 6)))
    return { old, sum: table.sum(0) }
  })
  const ids = [3, 1, 3, 99, -4]
  const rows = Array.from({ length: 5 * 40 }, (_, i) => i % 7)
  const before = Array.from({ length: 6 * 40 }, (_, i) => i)
  const { old, sum } = await update({
    rows: array(Float32Array.from(rows), [5, 40]),
    ids: array(Int32Array.from(ids)),
  })
  const expected = [...before]
  ids.forEach((id, i) => {
    const row = Math.min(5, Math.max(0, id))
    for (let j = 0; j < 40; j++) {
      assert.equal(old.data[i * 40 + j], before[row * 40 + j])
      expected[row * 40 + j] += rows[i * 40 + j] + before[row * 40 + j]
    }
  })
  assert.deepEqual(await numbers(table), expected)
  assert.deepEqual(
    [...sum.data],
    Array.from({ length: 40 }, (_, j) => 6 * j + 15 * 40),
  )
})

test('scatterAdd of rows onto themselves', async () => {
  const move = compile(({ rows, ids }) => {
    const sums = rows.matmul(full([3, 3], 1))
    return { moved: sums.add(scatterAdd(sums, ids, 3)) }
  })
  const rows = array(Float32Array.of(1, 0, 0, 0, 1, 1, 2, 1, 0), [3, 3]) // sums of 1, 2 and 3
  const { moved } = await move({ rows, ids: array(Int32Array.of(1, 2, 0)) })
  assert.deepEqual(
    [...moved.data],
    [1 + 3, 2 + 1, 3 + 2].flatMap(sum => [sum, sum, sum]),
  )
})

test('scatterAdd onto a variable of which others take the old and the new value', async () => {
  const [table, copy] = [variable(counting(5, 3)), variable(full([5, 3], 0))]
  const run = compile(({ rows, ids }) => {
    const next = table.add(scatterAdd(rows, ids, 5)).add(scatterAdd(rows.mul(10), ids.add(1), 5))
    assign(table, next)
    assign(copy, table)
    return { next, doubled: next.mul(2), product: table.matmul(rows.T) }
  })
  const { next, doubled, product } = await run({
    rows: array(new Float32Array(6).fill(1), [2, 3]),
    ids: array(Int32Array.of(0, 2)),
  })
  const expected = Array.from({ length: 15 }, (_, i) => i + [1, 10, 1, 10, 0][Math.floor(i / 3)])
  assert.deepEqual([...next.data], expected)
  assert.deepEqual(
    [...doubled.data],
    expected.map(value => 2 * value),
  )
  assert.deepEqual(await numbers(table), expected)
  assert.deepEqual(
    await numbers(copy),
    Array.from({ length: 15 }, (_, i) => i),
  )
  assert.deepEqual([...product.data], [3, 3, 12, 12, 21, 21, 30, 30, 39, 39])
})

test('a backend that is closed, or another than before, is refused', async () => {
  const other = await makeBackend({ threads: 1 })
  useBackend(other)
  const v = variable(floats(1))
  const run = compile(() => ({ v: v.add(1) }))
  try {
    await run()
  } finally {
    useBackend(backend)
  }
  await assert.rejects(v.read(), /another backend/)
  await other.close()
  await assert.rejects(run(), /another backend|closed/)
})

test('whole graphs and one operation at a time agree', async () => {
  const random = seeded(3)
  const [rows, width] = [400, 20]
  const data: Inputs = {
    x: array(randomArray([rows, width], random), [rows, width]),
    w: array(randomArray([2 * width, width], random), [2 * width, width]),
    p: array(randomArray([width, width], random), [width, width]),
    t: array(Int32Array.from({ length: rows }, () => random() * width)),
  }
  let roots: Record<string, Tensor> = {}
  const run = compile(({ x, w, p, t }) => {
    const [a, b] = layerNorm(x).matmul(w.T).split([width, width])
    const y = x.add(a.mul(gelu(b)).matmul(p.T))
    const noise = randomUniform([rows, width], 9).less(0.9)
    const { loss } = crossEntropy(where(noise, y, 0), t)
    const mean = loss.mean()
    const [dx, dw, dp] = grad(mean, [x, w, p])
    return (roots = { y, loss, mean, dx, dw, dp })
  })
  const whole = await run(data)
  const values = await oneByOne(Object.values(roots), data)
  const products = await productsOf(run, data)
  for (const [name, tensor] of Object.entries(roots)) {
    const expected = values.get(tensor)!
    const scale = Math.max(...Array.from(expected.data, Math.abs))
    const result = whole[name as keyof typeof whole].data
    const quantity = name.startsWith('d') ? 'gradients' : 'values'
    const parts = [result, expected.data].map(data => Array.from(data, value => value / scale))
    expectNear(name, parts[0], parts[1], 2e-6, quantity, products)
  }
})

/** Computes a graph with a program for each node; truth values, which no program returns, within their readers'. */
async function oneByOne(roots: readonly Tensor[], data: Inputs) {
  const values = new Map<Tensor, ReturnType<typeof array>>()
  const visit = async (tensor: Tensor): Promise<void> => {
    if (values.has(tensor)) return
    const { operation, inputs, shape, dtype } = tensor
    for (const input of inputs) await visit(input)
    if (dtype === 'bool') return
    if (operation.kind === 'input') {
      values.set(tensor, data[operation.name] as ReturnType<typeof array>)
      return
    }
    const given: Record<string, ReturnType<typeof array>> = {}
    const run = compile(named => {
      const copy = (input: Tensor): Tensor =>
        values.has(input)
          ? named[`i${input.id}`]
          : new Tensor(input.operation, input.inputs.map(copy), input.shape, input.dtype)
      return { out: new Tensor(operation, inputs.map(copy), shape, dtype) }
    })
    const needed = (input: Tensor): void => {
      const value = values.get(input)
      if (value) given[`i${input.id}`] = value
      else input.inputs.forEach(needed)
    }
    inputs.forEach(needed)
    values.set(tensor, (await run(given)).out)
  }
  for (const root of roots) await visit(root)
  return values
}
