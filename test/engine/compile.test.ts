/** compile(): inputs, outputs, variables and what it refuses. */
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
  crossEntropy,
  full,
  gelu,
  grad,
  layerNorm,
  linearCrossEntropy,
  randomNormal,
  randomUniform,
  scatterAdd,
  useBackend,
  variable,
  where,
} from '../../engine/index.ts'
import { gpuPrecision, makeBackend, startBackend } from '../support/backend.ts'
import { randomArray, seeded } from '../support/reference.ts'
import { expectNear, productsOf } from '../support/tolerance.ts'

const backend = await startBackend()

const floats = (...values: number[]) => array(Float32Array.from(values))
const counting = (...shape: number[]) =>
  array(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i),
    shape,
  )
const numbers = async (target: Variable) => [...(await target.read()).data]

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

test('constants that JSON cannot tell apart', async () => {
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
  // A GPU may drop the sign of a zero.
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

test('bool tensors cannot be returned', async () => {
  await assert.rejects(compile(({ x }) => ({ y: x.less(0) }))({ x: floats(1) }), /ShapeError: .*'y'.*bool/)
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

/** Computes a graph with one program a node. Programs cannot return bools, so these are computed where they are read. */
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
