/** Indices and targets out of range: an error if they are data, and never a plausible result. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Tensor,
  arange,
  array,
  assign,
  compile,
  concat,
  crossEntropy,
  full,
  grad,
  linearCrossEntropy,
  scatterAdd,
  variable,
} from '../../engine/index.ts'
import { startBackend } from '../support/backend.ts'
import { expectNear } from '../support/tolerance.ts'

await startBackend()

const logits = array(Float32Array.of(-1, -2, -3, 1, 2, 3), [2, 3])
const ints = (...values: number[]) => array(Int32Array.from(values))
const head = compile(({ l, t }) => {
  const { loss, correct } = crossEntropy(l, t)
  return { loss, correct, g: grad(loss.sum(), [l])[0] }
})

test('crossEntropy: a target of -100 has no loss and no gradient', async () => {
  const { loss, correct, g } = await head({ l: logits, t: ints(-100, 2) })
  const sum = Math.exp(1) + Math.exp(2) + Math.exp(3)
  expectNear('loss', loss.data, [0, Math.log(sum) - 3], 1e-6, 'values')
  assert.deepEqual([...correct.data], [0, 1])
  const expected = [0, 0, 0, Math.exp(1) / sum, Math.exp(2) / sum, Math.exp(3) / sum - 1]
  expectNear('gradient', g.data, expected, 1e-6, 'gradients')
  assert.deepEqual([...g.data.subarray(0, 3)].map(Math.abs), [0, 0, 0])
})

test('linearCrossEntropy: a target of -100 has no loss and no gradient', async () => {
  const run = compile(({ x, w, t }) => {
    const { loss, correct } = linearCrossEntropy(x, w, t)
    const [dx, dw] = grad(loss.sum(), [x, w])
    return { loss, correct, dx, dw }
  })
  const w = array(Float32Array.of(1, 0, 0, 1, -1, 1), [3, 2])
  const { loss, correct, dx, dw } = await run({
    x: array(Float32Array.of(1, 2, 3, 4), [2, 2]),
    w,
    t: ints(-100, -100),
  })
  for (const { data } of [loss, correct, dx, dw]) assert.ok(data.every(value => value === 0))
})

test('crossEntropy: an input target that is not a class is refused, with its position', async () => {
  for (const [values, message] of [
    [[0, 3], /^RangeError: crossEntropy: input 't' has 3 at \[1\], and it takes 0 to 2, or -100/],
    [[-1, 0], /input 't' has -1 at \[0\]/],
    [[-101, 0], /input 't' has -101 at \[0\]/],
    [[0, 2 ** 31 - 1], /input 't' has 2147483647 at \[1\]/],
  ] as const) {
    const inputs = { l: logits, t: ints(...values) }
    await assert.rejects(head(inputs), message)
    await assert.rejects(head.profile(inputs), message)
  }
  // The function still works.
  assert.ok((await head({ l: logits, t: ints(0, 1) })).loss.data.every(Number.isFinite))
})

test('crossEntropy: the loss of a computed target that is not a class is NaN', async () => {
  const run = compile(({ l, t }) => {
    const { loss, correct } = crossEntropy(l, t.mul(2))
    return { loss, correct }
  })
  const lossOf = async (...targets: number[]) => {
    const { loss, correct } = await run({ l: logits, t: ints(...targets) })
    assert.ok(targets.every((target, i) => (target >= 0 && target < 2) || correct.data[i] === 0))
    return [...loss.data].map(Number.isNaN)
  }
  assert.deepEqual(await lossOf(0, 1), [false, false])
  assert.deepEqual(await lossOf(2, -1), [true, true])
  assert.deepEqual(await lossOf(-50, -49), [false, true])
})

test('a refused call assigns nothing', async () => {
  const count = variable(full([], 0))
  const run = compile(({ i }) => {
    assign(count, count.add(1))
    return { y: full([4, 1], 1).add(0.5).gather(i) }
  })
  await run({ i: ints(3) })
  await assert.rejects(
    run({ i: ints(4) }),
    /^RangeError: gather: input 'i' has 4 at \[0\], and it takes 0 to 3$/,
  )
  await assert.rejects(run.update({ i: ints(-1) }), /input 'i' has -1/)
  assert.equal((await count.read()).item(), 1)
})

/** Ways for an input [2, 3] to become indices, and the values in it that are used. */
const views: Record<string, [view: (x: Tensor) => Tensor, isUsed: (row: number, column: number) => boolean]> =
  {
    itself: [x => x, () => true],
    reshape: [x => x.reshape(3, 2), () => true],
    transpose: [x => x.T.slice(0, 0, 2), (_, column) => column < 2],
    'slice of rows': [x => x.slice(0, 1, 2), row => row === 1],
    'slice of columns': [x => x.slice(1, 1, 2), (_, column) => column === 1],
    'slices of slices': [x => x.slice(1, 1, 3).T.slice(1, 0, 1), (row, column) => row === 0 && column > 0],
    broadcast: [
      x => x.slice(0, 1, 2).broadcastTo([4, 3]).slice(1, 2, 3),
      (row, column) => row === 1 && column === 2,
    ],
    concat: [
      x => concat([x.slice(1, 2, 3), full([2, 1], 0, 'int32'), x.slice(1, 0, 1)]),
      (_, column) => column !== 1,
    ],
    'slice of a concat': [x => concat([x, x.slice(1, 0, 1)]).slice(1, 2, 4), (_, column) => column !== 1],
    'concat of rows': [x => concat([x.slice(0, 0, 1), x.slice(0, 0, 1)], 0), row => row === 0],
    'and what is computed from it': [x => concat([x.slice(0, 0, 1), x.mul(3)], 0), row => row === 0],
  }

for (const [name, [view, isUsed]] of Object.entries(views))
  test(`indices that are views of an input: ${name}`, async () => {
    const run = compile(({ x, table }) => {
      const indices = view(x)
      const y = table.gather(indices)
      return { y, z: scatterAdd(full([...indices.shape, 1], 1), indices, 5) }
    })
    const table = array(Float32Array.of(0, 1, 2, 3, 4), [5, 1])
    for (let place = 0; place < 6; place++) {
      const [row, column] = [Math.floor(place / 3), place % 3]
      const x = array(
        Int32Array.from({ length: 6 }, (_, i) => (i === place ? 5 : i % 5)),
        [2, 3],
      )
      const given = { x, table }
      if (isUsed(row, column))
        await assert.rejects(run(given), new RegExp(`input 'x' has 5 at \\[${row}, ${column}\\]`))
      else await run(given)
    }
  })

test('indices that are constants are checked where they are used', async () => {
  const table = full([3, 2], 1)
  const outside: (() => Tensor)[] = [
    () => table.gather(full([2], 3, 'int32')),
    () => table.gather(full([2], -1, 'int32')),
    () => table.gather(arange(4)),
    () => scatterAdd(full([4, 1], 1), arange(4), 3),
    () => crossEntropy(full([4, 3], 1), arange(4)).loss,
  ]
  for (const make of outside) assert.throws(make, RangeError)
  assert.throws(() => full([0, 2], 1).gather(arange(0)), /no rows/)
  for (const rows of [0, -1, 1.5, NaN])
    assert.throws(() => scatterAdd(full([1, 1], 1), full([1], 0, 'int32'), rows), /positive whole number/)
  const { y } = await compile(() => ({ y: table.gather(arange(4).slice(0, 0, 3)) }))()
  assert.deepEqual([...y.data], [1, 1, 1, 1, 1, 1])
})

test('computed indices out of range are clamped, in gather, scatterAdd and their gradients', async () => {
  const run = compile(({ table, values, i }) => {
    const indices = i.mul(2)
    const [dTable] = grad(table.gather(indices).mul(values).sum(), [table])
    const sums = scatterAdd(values, indices, 4)
    const [dValues] = grad(sums.mul(table).sum(), [values])
    return { rows: table.gather(indices), dTable, sums, dValues }
  })
  const table = array(Float32Array.of(10, 20, 30, 40), [4, 1])
  const values = array(Float32Array.of(1, 2, 3, 4), [4, 1])
  const { rows, dTable, sums, dValues } = await run({ table, values, i: ints(-3, 1, 2, 1_000_000) })
  assert.deepEqual([...rows.data], [10, 30, 40, 40])
  assert.deepEqual([...dTable.data], [1, 0, 2, 7])
  assert.deepEqual([...sums.data], [1, 0, 2, 7])
  assert.deepEqual([...dValues.data], [10, 30, 40, 40])
})
