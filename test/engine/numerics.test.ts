/** Values and slopes of elementwise operations where they are delicate: PyTorch's, on every kind of float32. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Tensor,
  NDArray,
  ShapeError,
  arange,
  array,
  compile,
  full,
  gelu,
  grad,
  norm,
  randomUniform,
  relu,
  sigmoid,
  softmax,
  softplus,
  variable,
  where,
} from '../../engine/index.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import { erf, seeded } from '../support/reference.ts'

await startBackend()

const isCpu = gpuPrecision === undefined
const floats = (...values: number[]) => array(Float32Array.from(values))
const integers = (...values: number[]) => array(Int32Array.from(values))
const smallestNormal = 2 ** -126

async function valuesOf(apply: (x: Tensor) => Tensor, x: NDArray): Promise<number[]> {
  return [...(await compile(({ x }) => ({ y: apply(x) }))({ x })).y.data]
}
const slopesOf = (apply: (x: Tensor) => Tensor, x: NDArray) => valuesOf(x => grad(apply(x).sum(), [x])[0], x)
const secondSlopesOf = (apply: (x: Tensor) => Tensor, x: NDArray) =>
  slopesOf(x => grad(apply(x).sum(), [x])[0], x)

/** The same numbers, zeros with their signs; `share` of each may be missed by rounding. */
function expectEach(
  what: string,
  actual: readonly number[],
  expected: readonly number[],
  share = 0,
  isSame = Object.is,
): void {
  assert.equal(actual.length, expected.length, what)
  expected.forEach((value, i) => {
    const near = Math.abs(actual[i] - value) <= share * Math.abs(value)
    assert.ok(isSame(actual[i], value) || near, `${what}: element ${i} is ${actual[i]}, expected ${value}`)
  })
}

const logistic = (x: number) => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)))

/** Functions in float64, and how many units in the last place float32 may be off; a GPU may be off by more. */
const functions: Record<string, [apply: (x: Tensor) => Tensor, exact: (x: number) => number, units: number]> =
  {
    negate: [x => x.neg(), x => -x, 0],
    abs: [x => x.abs(), Math.abs, 0],
    floor: [x => x.floor(), Math.floor, 0],
    relu: [relu, x => (x <= 0 ? 0 : x), 0],
    sqrt: [x => x.sqrt(), Math.sqrt, 0.5],
    reciprocal: [x => x.reciprocal(), x => 1 / x, 0.5],
    'division by 3': [x => x.div(3), x => x / 3, 0.5],
    'division by 41': [x => x.div(41), x => x / 41, 0.5],
    'division by 1/8': [x => x.div(1 / 8), x => x * 8, 0.5],
    rsqrt: [x => x.rsqrt(), x => 1 / Math.sqrt(x), 2],
    exp: [x => x.exp(), Math.exp, 1],
    log: [x => x.log(), Math.log, 1],
    log1p: [x => x.log1p(), Math.log1p, 3],
    sin: [x => x.sin(), Math.sin, 3],
    cos: [x => x.cos(), Math.cos, 3],
    tanh: [x => x.tanh(), Math.tanh, 4],
    erf: [x => x.erf(), x => (x === 0 ? x : erf(x)), 6],
    sigmoid: [sigmoid, logistic, 4],
    softplus: [softplus, x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), 4],
    'slope of sigmoid': [x => grad(sigmoid(x).sum(), [x])[0], x => logistic(x) * logistic(-x), 5],
    'slope of softplus': [x => grad(softplus(x).sum(), [x])[0], logistic, 4],
    ...Object.fromEntries(
      [-8, -3, -2, -1.7, 0.001, 0.1, 0.3333, 1.7, 2, 2.5, 3, 4, 5, 10, 33, 1000].map(power => [
        `power ${power}`,
        [(x: Tensor) => x.pow(power), (x: number) => x ** Math.fround(power), 3],
      ]),
    ),
  }

/** Numbers of every magnitude, and more of those at which functions change. */
function manyFloats(): Float32Array<ArrayBuffer> {
  const random = seeded(3)
  const bits = Int32Array.from({ length: 6000 }, () => random() * 2 ** 32)
  const near = (size: number) => Array.from({ length: 3000 }, () => (random() - 0.5) * size)
  const limits = [88.72283172607422, 88.72283935546875, -87.33655, -103.97208, -103.98, 1024, 1024.0001]
  const edges = [1, 0.5, 0.625, 4, 2 ** -149, 2 ** -140, smallestNormal, 1e10, 3.4028234663852886e38]
  return Float32Array.from([
    0,
    -0,
    NaN,
    Infinity,
    -Infinity,
    ...limits,
    ...edges,
    ...edges.map(x => -x),
    ...new Float32Array(bits.buffer),
    ...near(240),
    ...near(4),
  ])
}

/** The distance of a float32 of this size to the next. */
const unit = (value: number) =>
  Math.abs(value) < smallestNormal ? 2 ** -149 : 2 ** (Math.floor(Math.log2(Math.abs(value))) - 23)

for (const [name, [apply, exact, units]] of Object.entries(functions)) {
  test(`${name} of every kind of float32`, async () => {
    const xs = manyFloats()
    const actual = await valuesOf(apply, array(xs))
    const power = Math.abs(Number(name.match(/^power (.*)/)?.[1] ?? 0))
    const allowed = isCpu ? units : units + 4 + power
    xs.forEach((x, i) => {
      const [value, y] = [exact(x), actual[i]]
      const rounded = Math.fround(value)
      // WGSL may take subnormal numbers for zero, and give 0 for subnormal results.
      const isTiny = (number: number) => number !== 0 && Math.abs(number) <= smallestNormal
      if (!isCpu && (isTiny(x) || isTiny(value) || (name === 'reciprocal' && isTiny(1 / x)))) return
      if (Object.is(y, rounded) || (name === 'relu' && y === rounded)) return
      assert.ok(
        Math.abs(y - value) <= allowed * unit(rounded),
        `${name} of ${x} is ${y}, expected ${rounded}: off by ${Math.abs(y - value) / unit(rounded)} units`,
      )
    })
  })
}

test('an angle has the same sine whatever its neighbours are', async () => {
  const angles = Float32Array.from({ length: 24 }, (_, i) => (i % 5 === 3 ? 1e9 + 64 * i : i - 12))
  for (const apply of [(x: Tensor) => x.sin(), (x: Tensor) => x.cos()]) {
    const together = await valuesOf(apply, array(angles))
    for (const [i, angle] of angles.entries())
      assert.ok(Object.is((await valuesOf(apply, floats(angle)))[0], together[i]), `of ${angle}`)
  }
})

test('constants beyond float32 are infinite, and tiny ones subnormal or 0', async () => {
  const x = floats(-1, 1)
  expectEach('-MAX_VALUE', await valuesOf(x => where(x.less(0), x, -Number.MAX_VALUE), x), [-1, -Infinity])
  expectEach('1e39', await valuesOf(x => x.mul(1e39), x), [-Infinity, Infinity])
  expectEach('full', await valuesOf(x => x.add(full([2], -1e39)), x), [-Infinity, -Infinity])
  expectEach('1e-60', await valuesOf(x => x.mul(1e-60), x), [-0, 0], 0, (a, b) => a === b)
  if (isCpu) expectEach('/ 1e-40', await valuesOf(x => x.div(1e-40), floats(0, 1)), [0, Infinity])
  if (isCpu) expectEach('1e-40', await valuesOf(x => x.mul(1e-40), floats(1)), [Math.fround(1e-40)])
  // Folded in float32, as they would be computed: 2^24 + 1 is not a float32.
  const folded = await valuesOf(x => x.add(full([2], 2 ** 24).add(1)), floats(0, 0))
  expectEach('2^24 + 1', folded, [2 ** 24, 2 ** 24])
  expectEach('0.1 * 0.1', await valuesOf(x => x.add(full([], 0.1).mul(0.1)), floats(0)), [
    Math.fround(Math.fround(0.1) ** 2),
  ])
})

test('the signs of zeros', { skip: !isCpu && 'a GPU may forget them' }, async () => {
  const x = floats(-0, 0)
  expectEach('x + 0', await valuesOf(x => x.add(0), x), [0, 0])
  expectEach('0 + x', await valuesOf(x => full([2], 0).add(x), x), [0, 0])
  expectEach('x + -0', await valuesOf(x => x.add(-0), x), [-0, 0])
  expectEach('x - 0', await valuesOf(x => x.sub(0), x), [-0, 0])
  expectEach('x * 1', await valuesOf(x => x.mul(1), x), [-0, 0])
  expectEach('x / 1', await valuesOf(x => x.div(1), x), [-0, 0])
  expectEach('x / -4', await valuesOf(x => x.div(-4), x), [0, -0])
})

test('int32 wraps, also with numbers beyond it and among constants', async () => {
  const x = integers(1, 5, -7)
  const each = (value: (x: number) => number) => [...x.data].map(value)
  expectEach(
    '* -3e9',
    await valuesOf(x => x.mul(-3e9), x),
    each(x => Math.imul(x, -3e9)),
  )
  expectEach(
    '+ 5e9',
    await valuesOf(x => x.add(5e9), x),
    each(x => (x + 5e9) | 0),
  )
  expectEach(
    '- 5e9',
    await valuesOf(x => x.sub(5e9), x),
    each(x => (x - 5e9) | 0),
  )
  expectEach(
    'and',
    await valuesOf(x => x.and(2 ** 32 - 2), x),
    each(x => x & -2),
  )
  const product = full([3], 65536, 'int32').mul(65536)
  expectEach('65536 * 65536', await valuesOf(x => x.add(product), x), [...x.data])
  const hash = full([3], 0x01000193, 'int32').mul(0x2545f491)
  expectEach(
    'hash',
    await valuesOf(x => x.mul(0).add(hash), x),
    Array(3).fill(Math.imul(0x01000193, 0x2545f491)),
  )
  const sum = full([3], 2 ** 31 - 1, 'int32').add(1)
  expectEach('2^31 - 1 + 1', await valuesOf(x => x.mul(0).add(sum), x), Array(3).fill(-(2 ** 31)))
  expectEach('pow 3', await valuesOf(x => x.pow(3), integers(3, -3, 2000)), [27, -27, Math.imul(4e6, 2000)])
  expectEach('pow 0', await valuesOf(x => x.pow(0), x), [1, 1, 1])
})

test('truth values as constants', async () => {
  const x = floats(-1, 1)
  for (const value of [0, 1]) {
    const flags = full([2], value, 'bool')
    expectEach('where', await valuesOf(x => where(flags, x, 7), x), value ? [-1, 1] : [7, 7])
    expectEach('toFloat', await valuesOf(x => x.mul(0).add(flags.toFloat()), x), [value, value])
    expectEach('and', await valuesOf(x => x.less(0).and(value).toInt(), x), [value, 0])
    expectEach('equal', await valuesOf(x => x.less(0).equal(value).toInt(), x), value ? [1, 0] : [0, 1])
  }
})

test('numbers that a dtype does not have are refused', () => {
  const [x, ints, bools] = [full([2], 1), arange(2), full([2], 1).less(0)]
  const refusals: (() => unknown)[] = [
    () => full([2], 1.5, 'int32'),
    () => full([2], NaN, 'int32'),
    () => full([2], 2 ** 31, 'int32'),
    () => full([2], 2, 'bool'),
    () => full([-2], 1),
    () => full([1.5], 1),
    () => arange(-1),
    () => arange(2.5),
    () => ints.add(0.5),
    () => ints.mul(NaN),
    () => ints.mul(Infinity),
    // They would wrap, and the answer be wrong.
    () => ints.less(5e9),
    () => ints.equal(5e9),
    () => ints.maximum(-5e9),
    () => where(bools, ints, 1.5),
    () => where(bools, ints, 5e9),
    () => bools.and(3),
    () => bools.neg(),
    () => ints.div(2),
    () => ints.pow(-1),
    () => ints.pow(0.5),
    () => x.pow(NaN),
    () => x.pow(Infinity),
    () => x.pow(1e39),
    // Types are not checked where a program is JavaScript.
    ...[undefined, null, '2', 2n, floats(1, 2), [1, 2]].flatMap(value => [
      () => Reflect.apply(x.add, x, [value]),
      () => Reflect.apply(x.pow, x, [value]),
      () => Reflect.apply(full, undefined, [[2], value]),
      () => Reflect.apply(where, undefined, [bools, x, value]),
    ]),
    () => norm([]),
  ]
  for (const refused of refusals) assert.throws(refused, ShapeError, String(refused))
})

test('arrays of other types: their numbers, or a refusal', async () => {
  const values: [data: ConstructorParameters<typeof NDArray>[0], dtype: string][] = [
    [[1.5, -2.5], 'float32'],
    [[1, 2], 'float32'],
    [[NaN, Infinity], 'float32'],
    [Float32Array.of(1.5, 2), 'float32'],
    [Float64Array.of(1.5, 1e300), 'float32'],
    [Int8Array.of(-128, 127), 'int32'],
    [Uint8Array.of(0, 255), 'int32'],
    [Uint8ClampedArray.of(0, 255), 'int32'],
    [Int16Array.of(-32768, 32767), 'int32'],
    [Uint16Array.of(0, 65535), 'int32'],
    [Int32Array.of(-(2 ** 31), 2 ** 31 - 1), 'int32'],
    [Uint32Array.of(0, 2 ** 31 - 1), 'int32'],
  ]
  for (const [data, dtype] of values) {
    const made = array(data)
    assert.equal(made.dtype, dtype)
    const expected = [...data].map(value => (dtype === 'float32' ? Math.fround(value) : value))
    assert.deepEqual([...made.data], expected)
    const isPlain = expected.every(Number.isFinite)
    if (isPlain) assert.deepEqual(await valuesOf(x => x.neg().neg(), made), expected)
    const kept = variable(made)
    assert.deepEqual([...(await kept.read()).data], expected)
  }
  const given = Float32Array.of(1, 2)
  assert.equal(array(given).data, given, 'a Float32Array is not copied')
  const refused = [
    Uint32Array.of(2 ** 31),
    BigInt64Array.of(1n),
    ['1', '2'],
    [[1], [2]],
    [true],
    [undefined],
    new Array(2),
    'text',
    3,
    undefined,
    null,
    {},
    new ArrayBuffer(8),
    new DataView(new ArrayBuffer(8)),
  ]
  for (const data of refused) assert.throws(() => Reflect.apply(array, undefined, [data]), ShapeError)
  assert.throws(() => array([1, 2, 3, 4], [-2, -2]), ShapeError)
  assert.throws(() => array([1, 2], [3]), ShapeError)
  assert.throws(() => array([1, 2, 3], [1.5, 2]), ShapeError)
})

test('what is no array is refused as an input, a variable or its new value', async () => {
  const run = compile(({ x }) => ({ y: x.add(1) }))
  for (const x of [Float32Array.of(1), [1], '1', true, undefined, null, full([1], 1)]) {
    await assert.rejects(Reflect.apply(run, undefined, [{ x }]), { name: 'ShapeError', message: /input 'x'/ })
    await assert.rejects(Reflect.apply(run.prepare, undefined, [{ x }]), ShapeError)
    await assert.rejects(Reflect.apply(run.update, undefined, [{ x }]), ShapeError)
  }
  for (const initial of [Float32Array.of(1), [1], 1, undefined])
    assert.throws(() => Reflect.apply(variable, undefined, [initial]), ShapeError)
  assert.throws(() => variable(full([1], 1).less(0)), ShapeError)
  const kept = variable(floats(1))
  await assert.rejects(Reflect.apply(kept.write, kept, [Float32Array.of(1)]), ShapeError)
})

test('slopes at corners, ties, infinities and NaN, as PyTorch has them', async () => {
  const x = floats(-1, 0, -0, 1, NaN, Infinity, -Infinity)
  const expected: [name: string, apply: (x: Tensor) => Tensor, slopes: number[]][] = [
    ['abs', x => x.abs(), [-1, 0, 0, 1, 0, 1, -1]],
    ['relu', relu, [0, 0, 0, 1, 1, 1, 0]],
    ['floor', x => x.floor().add(x.mul(0)), [0, 0, 0, 0, 0, 0, 0]],
    ['sqrt', x => x.sqrt(), [NaN, Infinity, -Infinity, 0.5, NaN, 0, NaN]],
    ['rsqrt', x => x.rsqrt(), [NaN, -Infinity, Infinity, -0.5, NaN, -0, NaN]],
    ['reciprocal', x => x.reciprocal(), [-1, -Infinity, -Infinity, -1, NaN, -0, -0]],
    ['log', x => x.log(), [-1, Infinity, -Infinity, 1, NaN, 0, -0]],
    ['log1p', x => x.log1p(), [Infinity, 1, 1, 0.5, NaN, 0, -0]],
    ['sigmoid', sigmoid, [0.19661193, 0.25, 0.25, 0.19661193, NaN, 0, 0]],
    ['softplus', softplus, [0.26894143, 0.5, 0.5, 0.7310586, NaN, 1, 0]],
    ['tanh', x => x.tanh(), [0.41997433, 1, 1, 0.41997433, NaN, 0, 0]],
    ['maximum of a tie', x => x.maximum(full([7], 1)), [0, 0, 0, 0.5, 1, 1, 0]],
    ['minimum of a tie', x => x.minimum(full([7], -1)), [0.5, 0, 0, 0, 1, 0, 1]],
  ]
  // A GPU's compiler may take it that there are no infinities and no NaN.
  const count = isCpu ? 7 : 4
  const same = (a: number, b: number) => Object.is(a, b) || (a === 0 && b === 0)
  for (const [name, apply, slopes] of expected) {
    if (!isCpu && /log|sqrt|reciprocal/.test(name)) continue
    const actual = await slopesOf(apply, x)
    expectEach(`slope of ${name}`, actual.slice(0, count), slopes.slice(0, count), 1e-5, same)
  }
})

test('equal operands share the gradient, and NaN goes to both', async () => {
  const run = compile(({ x, y }) => {
    const [maximum, minimum] = [x.maximum(y), x.minimum(y)].map(z => grad(z.mul(2).sum(), [x, y]))
    return { a: maximum[0], b: maximum[1], c: minimum[0], d: minimum[1] }
  })
  const { a, b, c, d } = await run({ x: floats(1, 1, 0), y: floats(1, 2, -0) })
  assert.deepEqual([...a.data], [1, 0, 1])
  assert.deepEqual([...b.data], [1, 2, 1])
  assert.deepEqual([...c.data], [1, 2, 1])
  assert.deepEqual([...d.data], [1, 0, 1])
})

test('maximum and minimum pass NaN on, and comparisons with it are false', async () => {
  const [x, y] = [floats(NaN, 1, NaN), floats(1, NaN, NaN)]
  const run = compile(({ x, y }) => ({
    max: x.maximum(y),
    min: x.minimum(y),
    equal: x.equal(y).toInt(),
    less: x.less(y).toInt(),
    lessEqual: x.lessEqual(y).toInt(),
  }))
  const { max, min, ...comparisons } = await run({ x, y })
  assert.ok([...max.data, ...min.data].every(Number.isNaN))
  for (const { data } of Object.values(comparisons)) assert.deepEqual([...data], [0, 0, 0])
})

test('powers and their slopes at zeros, negative numbers, infinities and NaN, as PyTorch has them', async () => {
  const x = floats(-2, 0, -0, 2, Infinity, -Infinity, NaN)
  const inf = Infinity
  const expected: [power: number, values: number[], slopes: number[]][] = [
    [0, [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]],
    [0.5, [NaN, 0, -0, Math.SQRT2, inf, NaN, NaN], [NaN, inf, -inf, 0.35355338, 0, NaN, NaN]],
    [-1, [-0.5, inf, -inf, 0.5, 0, -0, NaN], [-0.25, -inf, -inf, -0.25, -0, -0, NaN]],
    [2, [4, 0, 0, 4, inf, inf, NaN], [-4, 0, -0, 4, inf, -inf, NaN]],
    [3, [-8, 0, -0, 8, inf, -inf, NaN], [12, 0, 0, 12, inf, inf, NaN]],
    [-2, [0.25, inf, inf, 0.25, 0, 0, NaN], [0.25, -inf, inf, -0.25, -0, 0, NaN]],
    [1.7, [NaN, 0, 0, 3.2490096, inf, inf, NaN], [NaN, 0, 0, 2.7616582, inf, inf, NaN]],
    [-1.7, [NaN, inf, inf, 0.3077861, 0, 0, NaN], [NaN, -inf, -inf, -0.26161817, -0, -0, NaN]],
    [10, [1024, 0, 0, 1024, inf, inf, NaN], [-5120, 0, -0, 5120, inf, -inf, NaN]],
    [-3, [-0.125, inf, -inf, 0.125, 0, -0, NaN], [-0.1875, -inf, -inf, -0.1875, -0, -0, NaN]],
  ]
  const same = (a: number, b: number) => Object.is(a, b) || (!isCpu && a === 0 && b === 0)
  for (const [power, values, slopes] of expected) {
    expectEach(`power ${power}`, await valuesOf(x => x.pow(power), x), values, 1e-6, same)
    if (!isCpu) continue
    const actual = await slopesOf(x => x.pow(power).add(x.detach().mul(0)), x)
    expectEach(`slope of power ${power}`, actual, slopes, 1e-6)
  }
  // Second slopes: p (p - 1) x^(p - 2).
  for (const power of [2, 3, 4, 6, -2, 2.5])
    expectEach(
      `second slope of power ${power}`,
      await secondSlopesOf(x => x.pow(power), floats(0.5, 1, 3)),
      [0.5, 1, 3].map(x => power * (power - 1) * x ** (power - 2)),
      1e-5,
    )
})

test('a norm of zeros has slopes of 0, and others are as ever', async () => {
  expectEach('zeros', await slopesOf(x => norm([x]), floats(0, -0, 0)), [0, 0, 0], 0, (a, b) => a === b)
  expectEach('value', await valuesOf(x => norm([x, x.mul(2)]), floats(0, 0)), [0])
  expectEach('3, 4', await slopesOf(x => norm([x]), floats(3, 4)), [0.6, 0.8], 1e-6)
  if (isCpu) expectEach('NaN', await valuesOf(x => norm([x]), floats(NaN, 1)), [NaN])
})

test(
  'division by a number is a division',
  { skip: !isCpu && 'WGSL lets it be off by 2.5 units' },
  async () => {
    const numbers = Float32Array.from({ length: 1000 }, (_, i) => i + 1)
    const random = seeded(5)
    for (const divisor of [
      3,
      7,
      41,
      47,
      49,
      55,
      61,
      82,
      194,
      0.1,
      1e-3,
      2 ** 70,
      2 ** -130,
      1e30,
      0,
      -0,
      Infinity,
      NaN,
    ]) {
      const xs = [...numbers, ...numbers.map(x => x * random()), 0, -0, Infinity, 1e-40]
      const [values, constant] = [await valuesOf(x => x.div(divisor), floats(...xs)), Math.fround(divisor)]
      expectEach(
        `/ ${divisor}`,
        values,
        xs.map(x => Math.fround(Math.fround(x) / constant)),
      )
    }
    for (const n of numbers.filter(n => n <= 200))
      assert.deepEqual(await valuesOf(x => x.div(n).floor(), floats(n, 3 * n)), [1, 3])
    // A mean is the sum, divided by the count.
    for (const count of [3, 41, 49, 1000]) {
      const ones = array(new Float32Array(count).fill(7))
      assert.deepEqual(await valuesOf(x => x.mean(), ones), [7])
      assert.deepEqual(await slopesOf(x => x.mean(), ones), Array(count).fill(Math.fround(1 / count)))
    }
  },
)

test('tails of sigmoid and softplus, with their first and second slopes', async () => {
  const xs = [-80, -50, -30, -20, -15, -10, -5, -1, -1e-3, 0, 1e-3, 1, 5, 10, 15, 20, 30, 50, 80].map(
    Math.fround,
  )
  const x = floats(...xs)
  const first = (x: number) => logistic(x) * logistic(-x)
  const second = (x: number) => first(x) * (logistic(-x) - logistic(x))
  const isSame = (a: number, b: number) => Math.abs(a - b) < 1e-7 * Math.min(1, Math.abs(b) + 1)
  // The terms of a second slope cancel near 0.
  const nearly = (a: number, b: number) => Math.abs(b) < 1e-2 && isSame(a, b)
  expectEach('sigmoid', await valuesOf(sigmoid, x), xs.map(logistic), 1e-6)
  expectEach('its slope', await slopesOf(sigmoid, x), xs.map(first), 1e-6)
  expectEach('its second slope', await secondSlopesOf(sigmoid, x), xs.map(second), 2e-6, nearly)
  const plus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))
  expectEach('softplus', await valuesOf(softplus, x), xs.map(plus), 1e-6)
  expectEach('its slope', await slopesOf(softplus, x), xs.map(logistic), 1e-6)
  expectEach('its second slope', await secondSlopesOf(softplus, x), xs.map(first), 2e-6)
  const logarithms = await valuesOf(x => sigmoid(x).log(), floats(-10, -20, -30, -80))
  expectEach('log of sigmoid', logarithms, [-10.000045, -20, -30, -80], 1e-6)
})

test('GELU and its slope far out', async () => {
  const x = floats(-1e30, -1e6, -30, -6, 6, 30, 1e6, 1e30)
  const [values, slopes] = [await valuesOf(gelu, x), await slopesOf(gelu, x)]
  for (const [i, limit] of [0, 0, 0, 0, 6, 30, 1e6, 1e30].entries()) {
    assert.ok(Math.abs(values[i] - limit) <= 1e-6 * Math.max(1, limit), `of ${x.data[i]}: ${values[i]}`)
    assert.ok(Math.abs(slopes[i] - Number(limit > 0)) < 1e-6, `slope at ${x.data[i]}: ${slopes[i]}`)
  }
})

test('softmax of scores far apart, and the largest float32', async () => {
  const run = compile(({ x }) => ({ y: softmax(x) }))
  const { y } = await run({ x: array(Float32Array.of(0, -200, 3e38, 3e38, -3e38, 0), [3, 2]) })
  expectEach('softmax', [...y.data], [1, 0, 0.5, 0.5, 0, 1], 1e-6)
})

test('random keys beyond int32 wrap', async () => {
  const [a, b] = [randomUniform([8], 5), randomUniform([8], 5 + 2 ** 32)]
  const { x, y } = await compile(() => ({ x: a, y: b }))()
  assert.deepEqual([...x.data], [...y.data])
})
