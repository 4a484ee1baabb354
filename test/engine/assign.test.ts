/** What variables hold after a call that assigns them, whatever else reads or writes them in the same call. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Variable,
  arange,
  array,
  assign,
  compile,
  concat,
  full,
  randomUniform,
  scatterAdd,
  variable,
} from '../../engine/index.ts'
import { startBackend } from '../support/backend.ts'
import { expectSmall } from '../support/tolerance.ts'

await startBackend()

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

test('assign: one tensor to two variables, and one that is used further', async () => {
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

test('assign: a value is not overwritten before it is copied to its variable', async () => {
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

test('a piece of a result is not written into memory that is still to be read', async () => {
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

test('assign: readers of the old value finish first', async () => {
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

test('scatterAdd onto a variable whose old and new values are both read', async () => {
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
