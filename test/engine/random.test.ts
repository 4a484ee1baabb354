import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  array,
  compile,
  concat,
  full,
  initialize,
  parametersOf,
  randomKey,
  randomNormal,
  randomUniform,
  useBackend,
  variable,
} from '../../engine/index.ts'
import { makeBackend, startBackend } from '../support/backend.ts'
import { expectSame } from '../support/tolerance.ts'

const backend = await startBackend()

const draw = async (make: typeof randomUniform, key: number, ...shape: number[]) =>
  (await compile(() => ({ x: make(shape, key) }))()).x.data

/** The mean of each power, and the correlation of neighbours at a distance. */
function moments(x: ArrayLike<number>): number[] {
  return [1, 2, 3, 4].map(power => Array.from(x).reduce((sum, value) => sum + value ** power, 0) / x.length)
}
function correlation(x: ArrayLike<number>, y: ArrayLike<number>, lag = 0): number {
  const [a, b] = [moments(x)[0], moments(y)[0]]
  let [xy, xx, yy] = [0, 0, 0]
  for (let i = lag; i < x.length; i++) {
    xy += (x[i - lag] - a) * (y[i] - b)
    xx += (x[i - lag] - a) ** 2
    yy += (y[i] - b) ** 2
  }
  return xy / Math.sqrt(xx * yy)
}

const count = 200_000
/** Four standard deviations of a mean of this many numbers of unit variance. */
const slack = 4 / Math.sqrt(count)

test('uniform numbers', async () => {
  const x = await draw(randomUniform, 1, count)
  assert.ok(x.every(value => value >= 0 && value < 1))
  moments(x).forEach((moment, i) =>
    assert.ok(Math.abs(moment - 1 / (i + 2)) < slack, `moment ${i + 1}: ${moment}`),
  )
  const bins = new Array<number>(64).fill(0)
  for (const value of x) bins[Math.floor(value * 64)]++
  const expected = count / 64
  const chi = bins.reduce((sum, bin) => sum + (bin - expected) ** 2 / expected, 0)
  // 63 degrees of freedom: mean 63, standard deviation 11.
  assert.ok(chi > 25 && chi < 120, `chi² ${chi}`)
  for (const lag of [1, 2, 3, 4, 8, 64, 1000, 65536])
    assert.ok(Math.abs(correlation(x, x, lag)) < 1.2 * slack, `lag ${lag}`)
})

test('normal numbers', async () => {
  const x = await draw(randomNormal, 2, count)
  const [mean, square, cube, fourth] = moments(x)
  assert.ok(Math.abs(mean) < slack, `mean ${mean}`)
  assert.ok(Math.abs(square - 1) < 1.5 * slack, `variance ${square}`)
  assert.ok(Math.abs(cube) < 4 * slack, `skew ${cube}`)
  assert.ok(Math.abs(fourth - 3) < 10 * slack, `kurtosis ${fourth}`)
  assert.ok(x.every(Number.isFinite))
  const beyond = x.filter(value => Math.abs(value) > 3).length / count
  assert.ok(beyond > 0.002 && beyond < 0.0034, `beyond three: ${beyond}`)
  for (const lag of [1, 2, 4, 100]) assert.ok(Math.abs(correlation(x, x, lag)) < slack, `lag ${lag}`)
  const wide = (await compile(() => ({ x: randomNormal([count], 2, 0.02) }))()).x.data
  wide.forEach((value, i) => assert.ok(Math.abs(value - 0.02 * x[i]) < 2e-8))
})

test('different keys give independent numbers', async () => {
  const first = await draw(randomUniform, 0, count)
  for (const key of [1, 2, 3, 1000, -1, 2 ** 30]) {
    const other = await draw(randomUniform, key, count)
    for (const lag of [0, 1, 2])
      assert.ok(Math.abs(correlation(first, other, lag)) < 1.2 * slack, `key ${key}, lag ${lag}`)
  }
})

test('the numbers depend only on key and index', async () => {
  const flat = await draw(randomNormal, 5, 6000)
  expectSame('[20, 300]', await draw(randomNormal, 5, 20, 300), flat)
  expectSame('[600, 10]', await draw(randomNormal, 5, 600, 10), flat)
  expectSame('[30, 5, 40]', await draw(randomNormal, 5, 30, 5, 40), flat)
  // Pieces, views and fused uses of the same tensor.
  const run = compile(({ key }) => {
    const x = randomNormal([600, 10], key)
    return {
      piece: x.slice(0, 100, 500),
      turned: x.T,
      joined: concat([x.slice(1, 0, 3), x.slice(1, 3, 10)], 1),
      double: x.mul(2),
    }
  })
  const { piece, turned, joined, double } = await run({ key: array(Int32Array.of(5), []) })
  expectSame('piece', piece.data, flat.slice(1000, 5000))
  expectSame(
    'turned',
    turned.data,
    flat.map((_, i) => flat[(i % 600) * 10 + Math.floor(i / 600)]),
  )
  expectSame('joined', joined.data, flat)
  expectSame(
    'double',
    double.data,
    flat.map(value => 2 * value),
  )
  const other = await makeBackend({ threads: 3 })
  useBackend(other)
  try {
    expectSame('[600, 10]', await draw(randomNormal, 5, 600, 10), flat)
  } finally {
    useBackend(backend)
    await other.close()
  }
})

const most = Number.MAX_SAFE_INTEGER

test('keys never change, and no two seeds or names share one', () => {
  // Runs are compared pair by pair across versions: these values must not change.
  const pinned = [
    [0, ''],
    [0, 'embedding'],
    [1, 'embedding'],
    [2 ** 32, 'embedding'],
    [most, 'blocks.0.expand'],
    [7, 'größe'],
  ] as const
  assert.deepEqual(
    pinned.map(([seed, name]) => randomKey(seed, name)),
    [256347020, -1635849625, -1851474251, -80389824, 821262735, 2054815616],
  )
  const seeds = [
    0,
    1,
    2,
    1000,
    4294967,
    4294968,
    2 ** 31,
    2 ** 32,
    2 ** 32 + 1,
    2 ** 33,
    1.7e12,
    most - 1,
    most,
  ]
  const names = [
    '',
    'a',
    'b',
    'ab',
    'a\0',
    'a.b',
    'ä',
    ...Array.from({ length: 100 }, (_, i) => `blocks.${i}.up`),
  ]
  const keys = seeds.flatMap(seed => names.map(name => randomKey(seed, name)))
  assert.equal(new Set(keys).size, keys.length)
  assert.ok(keys.every(key => key === (key | 0)))
  for (const seed of [-1, 0.5, 2 ** 53, NaN, Infinity])
    assert.throws(() => randomKey(seed, 'a'), RangeError, `${seed}`)
})

test('initial values depend only on the seed and the name: adding a parameter changes no other', async () => {
  const normal = (key: number) => randomNormal([40], key)
  const valuesOf = async (network: Parameters<typeof parametersOf>[0]) => {
    const entries = parametersOf(network).map(async ([name, parameter]) => [
      name,
      [...(await parameter.read()).data],
    ])
    return Object.fromEntries(await Promise.all(entries)) as Record<string, number[]>
  }
  const block = { up: normal, down: normal }
  const made = initialize(3, { first: normal, blocks: [block, block], norm: variable(full([2], 1)) })
  const small = await valuesOf(made)
  assert.equal(made.blocks[1].down.size, 40)
  assert.deepEqual(Object.keys(small), [
    'first',
    'blocks.0.up',
    'blocks.0.down',
    'blocks.1.up',
    'blocks.1.down',
    'norm',
  ])
  assert.equal(new Set(Object.values(small).map(values => values.join())).size, 6)
  assert.deepEqual(small['blocks.1.up'], [...(await draw(randomNormal, randomKey(3, 'blocks.1.up'), 40))])
  const more = initialize(3, {
    added: normal,
    blocks: [{ gate: normal, ...block }, block, block],
    first: normal,
  })
  const large = await valuesOf(more)
  for (const name of ['first', 'blocks.0.up', 'blocks.0.down', 'blocks.1.up', 'blocks.1.down'])
    assert.deepEqual(large[name], small[name], name)
  for (const seed of [4, 3 + 2 ** 32, most]) {
    const other = await valuesOf(initialize(seed, { first: normal }))
    assert.ok(Math.abs(correlation(other.first, small.first)) < 0.7, `seed ${seed}`)
  }
})
