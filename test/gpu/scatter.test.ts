import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { gpuBackend } from '../../engine/gpu/runtime/backend.ts'
import { GpuError } from '../../engine/gpu/runtime/device.ts'
import { ScatterOrders } from '../../engine/gpu/kernels/scatter/scatter.ts'
import { Buffer, type Program, type ScatterAdd, type View } from '../../engine/compiler/program.ts'
import { wholeView } from '../../engine/compiler/views.ts'
import { testGpu } from '../support/strict-gpu.ts'

// Scatters by themselves, beside plain JavaScript in doubles.

const backend = await testGpu()
  .then(gpu => gpuBackend({ gpu, precision: 'f32' }))
  .catch((error: unknown) => {
    if (error instanceof GpuError) return undefined
    throw error
  })
after(() => backend?.close())

interface Case {
  readonly rows: number
  readonly columns: number
  readonly count: number
  /** The row that a position names, which may be outside. */
  readonly rowOf: (position: number) => number
  /** What out starts from: zeros, another matrix, or what it holds. */
  readonly start?: 'zeros' | 'base' | 'itself'
  /** Elements before the values, and between their rows. */
  readonly offset?: number
  readonly gap?: number
}

const noise = (i: number) => ((Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 24) * 2 - 1
const floats = (size: number, seed: number) => Float32Array.from({ length: size }, (_, i) => noise(i + seed))

const matrix = (rows: number, columns: number): View =>
  wholeView(new Buffer(rows * columns, 'float32'), [rows, columns])

function scatterOf(
  { rows, columns, count, start = 'zeros', offset = 0, gap = 0 }: Case,
  indices: View,
): ScatterAdd {
  const out = matrix(rows, columns)
  const base = matrix(rows, columns)
  if (start === 'itself') out.buffer.aliasOf = base.buffer
  const width = columns + gap
  const values = {
    buffer: new Buffer(offset + count * width, 'float32'),
    offset,
    shape: [count, columns],
    strides: [width, 1],
  }
  const starts = start === 'zeros' ? {} : { base }
  return { kind: 'scatterAdd', rows, columns, count, values, indices, ...starts, out }
}

/** A program of these scatters, all by the indices of the first, and what goes in. */
function programOf(works: readonly ScatterAdd[], rowOf: (position: number) => number) {
  const [{ indices, count }] = works
  const operands = works.flatMap(({ values, base }) => [values.buffer, ...(base ? [base.buffer] : [])])
  const program: Program = {
    instructions: works.map(work => ({
      work,
      reads: [work.values.buffer, indices.buffer, ...(work.base ? [work.base.buffer] : [])],
      writes: [work.out.buffer],
      sharesRowBlocks: false,
    })),
    inputs: [indices.buffer, ...operands],
    outputs: works.map(({ out }) => out),
    variables: [],
  }
  const data = [
    Int32Array.from({ length: count }, (_, i) => rowOf(i)),
    ...operands.map(({ size }, i) => floats(size, 1000 * i)),
  ]
  return { program, data }
}

/** What a scatter gives, and the sum of all magnitudes in it. */
function expected(
  { rows, columns, count, values, base }: ScatterAdd,
  indices: ArrayLike<number>,
  given: ArrayLike<number>,
  start: ArrayLike<number>,
): { sums: Float64Array; magnitudes: Float64Array } {
  const sums = Float64Array.from({ length: rows * columns }, (_, i) => (base ? start[i] : 0))
  const magnitudes = new Float64Array(rows * columns)
  for (let i = 0; i < count; i++) {
    const row = Math.min(rows - 1, Math.max(0, indices[i]))
    for (let column = 0; column < columns; column++) {
      const value = given[values.offset + i * values.strides[0] + column]
      sums[row * columns + column] += value
      magnitudes[row * columns + column] += Math.abs(value)
    }
  }
  return { sums, magnitudes: magnitudes.map((sum, i) => (sum > 0 ? sum + Math.abs(sums[i]) : 0)) }
}

/** Scatters by the same indices, twice. Returns how many kernels that were. */
async function check(...cases: readonly [Case, ...Case[]]): Promise<number> {
  assert(backend)
  const [{ count, rowOf }] = cases
  const indices = wholeView(new Buffer(count, 'int32'), [count])
  const works = cases.map(one => scatterOf(one, indices))
  const { program, data } = programOf(works, rowOf)
  const executable = await backend.load(program, [])
  const results = await (await executable.run(data)).results
  let next = 1
  for (const [i, work] of works.entries()) {
    const given = data[next++]
    const start = work.base ? data[next++] : []
    const { sums, magnitudes } = expected(work, data[0], given, start)
    // Rows that are not named keep every bit.
    const wrong = results[i].findIndex((got, at) => !(Math.abs(got - sums[at]) <= 1e-6 * magnitudes[at]))
    const row = Math.floor(wrong / work.columns)
    assert(wrong < 0, `scatter ${i}, row ${row}: ${results[i][wrong]}, not ${sums[wrong]}`)
  }
  assert.deepEqual(await (await executable.run(data)).results, results, 'a second run gives other bits')
  return executable.dispatches
}

/** Some rows much more often than others, and some outside. */
const uneven =
  (rows: number) =>
  (i: number): number =>
    i % 5 < 2
      ? Math.min(17, rows - 1)
      : i % 101 === 0
        ? -3
        : i % 103 === 0
          ? rows + 9
          : Math.floor(((noise(i) + 1) / 2) ** 3 * rows)

const skip = backend ? false : 'neither a GPU nor a driver that computes on the CPU'
if (!backend) console.log(`gpu-scatter: skipped, ${skip}`)

test('rows of values are summed by index, whatever their shapes', { skip }, async () => {
  for (const [rows, columns, count] of [
    [1, 1, 1],
    [256, 1, 2048],
    [257, 1500, 40],
    [30, 1001, 65],
    [70000, 4, 40],
  ] as const) {
    await check({ rows, columns, count, rowOf: uneven(rows) })
  }
})

test('they are added to zeros, to another matrix, or in place', { skip }, async () => {
  for (const [rows, columns, count] of [
    [3, 7, 333],
    [500, 64, 2100],
  ] as const) {
    const shape = { rows, columns, count, rowOf: uneven(rows) }
    await check(
      { ...shape, start: 'zeros' },
      { ...shape, start: 'base', offset: 3, gap: 2 },
      { ...shape, start: 'itself', offset: 4, gap: 4 },
    )
  }
})

test('one row may take all positions', { skip }, async () => {
  await check({ rows: 300, columns: 128, count: 4000, rowOf: () => 299 })
  await check({ rows: 40000, columns: 1, count: 5003, rowOf: () => 39999, start: 'itself' })
})

test('many positions are sorted in several tiles and rounds', { skip }, async () => {
  await check({ rows: 32768, columns: 4, count: 40001, rowOf: uneven(32768), start: 'itself' })
})

test('scatters by the same indices share their order', { skip }, async () => {
  const shape = { rows: 1000, count: 700, rowOf: uneven(1000), start: 'itself' } as const
  const alone = await check({ ...shape, columns: 1 })
  const both = await check({ ...shape, columns: 1 }, { ...shape, columns: 16 })
  assert(both < 2 * alone, `${both} kernels for two scatters, ${alone} for one`)
})

test('an order does not outlive its indices', { skip }, () => {
  assert(backend)
  const { target } = backend
  const orders = new ScatterOrders()
  const indices = wholeView(new Buffer(100, 'int32'), [100])
  const work = scatterOf({ rows: 10, columns: 1, count: 100, rowOf: () => 0 }, indices)
  const made = () =>
    orders.of(work, ({ dtype }) => (dtype === 'int32' ? 'i32' : 'f32'), target).dispatches.length
  const first = made()
  orders.forget([work.out.buffer])
  assert.equal(made(), 0)
  orders.forget([indices.buffer])
  assert.equal(made(), first)
})
