import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Tensor,
  array,
  compile,
  gelu,
  grad,
  layerNorm,
  sigmoid,
  softmax,
  softplus,
  where,
} from '../../engine/index.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import { pointwiseError, readGolden } from '../golden/golden.ts'
import { erf, randomArray, seeded } from '../support/reference.ts'
import { type Quantity, expectNear, expectSmall } from '../support/tolerance.ts'

await startBackend()

const functions: Record<string, (x: Tensor) => Tensor> = {
  exp: x => x.exp(),
  erf: x => x.erf(),
  gelu,
  tanh: x => x.tanh(),
  sigmoid,
  softplus,
  sin: x => x.sin(),
  cos: x => x.cos(),
  log: x => x.log(),
  sqrt: x => x.sqrt(),
  rsqrt: x => x.rsqrt(),
  reciprocal: x => x.reciprocal(),
}

const golden = readGolden('functions')

for (const [name, apply] of Object.entries(functions)) {
  test(`${name} and its derivative, against PyTorch`, async () => {
    const positive = ['log', 'sqrt', 'rsqrt', 'reciprocal'].includes(name)
    const { data } = golden.float(positive ? 'positive' : 'grid')
    const run = compile(({ x }) => {
      const y = apply(x)
      return { y, dx: grad(y.sum(), [x])[0] }
    })
    const { y, dx } = await run({ x: array(data) })
    const check = (what: string, actual: ArrayLike<number>, quantity: Quantity) => {
      const error = pointwiseError(actual, golden.float(what).data)
      expectSmall(what, error, 6e-7, quantity)
    }
    check(name, y.data, 'values')
    check(`d_${name}`, dx.data, 'gradients')
  })
}

/** Largest error of a function on a dense grid, as a share of |f(x)| + slack. */
async function worst(
  name: string,
  exact: (x: number) => number,
  from: number,
  to: number,
  slack: number,
): Promise<number> {
  const count = 40_009
  const xs = Float32Array.from({ length: count }, (_, i) => from + ((to - from) * i) / (count - 1))
  const { y } = await compile(({ x }) => ({ y: functions[name](x) }))({ x: array(xs) })
  return xs.reduce((largest, x, i) => {
    const value = exact(x)
    const error = Math.abs(y.data[i] - value) / (Math.abs(value) + slack)
    return error <= largest ? largest : error
  }, 0)
}

const grids: [
  name: string,
  exact: (x: number) => number,
  from: number,
  to: number,
  slack: number,
  bound: number,
][] = [
  ['exp', Math.exp, -87.3, 88.3, 0, 2e-7],
  ['exp', Math.exp, -1, 1, 0, 2e-7],
  ['log', Math.log, 1e-6, 4, 1e-6, 3e-7],
  ['log', Math.log, 1, 1e30, 0, 2e-7],
  ['erf', erf, -5, 5, 0, 6e-7],
  ['erf', erf, -1e-3, 1e-3, 1e-30, 4e-7],
  ['tanh', Math.tanh, -12, 12, 0, 4e-7],
  ['sin', Math.sin, -20, 20, 1, 3e-7],
  ['cos', Math.cos, -20, 20, 1, 3e-7],
  ['sin', Math.sin, -1000, 1000, 1, 1e-6],
  ['sqrt', Math.sqrt, 0, 100, 1e-30, 1e-7],
  ['gelu', x => (x / 2) * (1 + erf(x / Math.SQRT2)), -6, 6, 1, 1e-6],
  ['sigmoid', x => 1 / (1 + Math.exp(-x)), -30, 30, 1, 2e-7],
  ['softplus', x => Math.log1p(Math.exp(-Math.abs(x))) + Math.max(x, 0), -30, 30, 1, 3e-7],
]
test('errors on dense grids', async () => {
  for (const [name, exact, from, to, slack, bound] of grids) {
    const error = await worst(name, exact, from, to, slack)
    expectSmall(`${name} on [${from}, ${to}]`, error, bound, 'values')
  }
})

test('infinities, zeros and NaN', async () => {
  const values = Float32Array.of(Infinity, -Infinity, NaN, 0, -0)
  const run = compile(({ x }): Record<string, Tensor> => ({
    ...Object.fromEntries(Object.entries(functions).map(([name, apply]) => [name, apply(x)])),
    abs: x.abs(),
    neg: x.neg(),
    floor: x.floor(),
    max: x.maximum(1),
    min: x.minimum(1),
    sum: x.add(x),
    product: x.mul(2),
    difference: x.sub(x),
    quotient: x.div(x),
  }))
  const results = await run({ x: array(values) })
  const exact: Record<string, (x: number) => number> = {
    exp: Math.exp,
    erf,
    tanh: Math.tanh,
    log: Math.log,
    sqrt: Math.sqrt,
    reciprocal: x => 1 / x,
    rsqrt: x => 1 / Math.sqrt(x),
    abs: Math.abs,
    neg: x => -x,
    floor: Math.floor,
    max: x => Math.max(x, 1),
    min: x => Math.min(x, 1),
    sum: x => x + x,
    product: x => x * 2,
    difference: x => x - x,
    quotient: x => x / x,
    sigmoid: x => 1 / (1 + Math.exp(-x)),
    softplus: x => (x === Infinity ? x : Math.log1p(Math.exp(x))),
  }
  for (const [name, result] of Object.entries(results)) {
    const apply = exact[name]
    values.forEach((x, i) => {
      const actual = result.data[i]
      if (Number.isNaN(x)) assert.ok(Number.isNaN(actual), `${name}(NaN) is ${actual}`)
      else if (apply)
        assert.ok(
          Object.is(Math.fround(apply(x)), actual) || Math.abs(apply(x) - actual) < 1e-6,
          `${name}(${x}) is ${actual}`,
        )
    })
  }
})

test('a NaN in a row spoils the row, and no other', async () => {
  for (const columns of [1, 3, 8, 13, 45]) {
    const run = compile(({ x }) => ({
      sum: x.sum(-1),
      // A GPU's maximum may be that of the other numbers, and its compiler may take x − x for 0.
      ...(gpuPrecision && columns === 1 ? {} : { soft: softmax(x).sum(-1) }),
      ...(gpuPrecision ? {} : { max: x.max(-1) }),
    }))
    for (const column of new Set([0, columns >> 1, columns - 1])) {
      const x = new Float32Array(3 * columns).fill(1)
      x[columns + column] = NaN
      for (const { data } of Object.values(await run({ x: array(x, [3, columns]) }))) {
        assert.deepEqual(Array.from(data, Number.isNaN), [false, true, false])
      }
    }
  }
})

test('rows of every number of columns: eight, four and single lanes', async () => {
  const random = seeded(1)
  for (const columns of [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 31, 33, 72, 257]) {
    const rows = 5
    const data = randomArray([rows, columns], random, -2, 2)
    const run = compile(({ x, gain, scale }) => ({
      y: x.mul(gain).add(scale).exp(),
      sum: x.sum(-1),
      max: x.max(-1),
      columns: x.sum(0),
      norm: layerNorm(x),
      whole: x.sum(),
      count: where(x.less(0), 1, 0).toFloat().sum(-1),
    }))
    const gain = randomArray([columns], random)
    const scale = randomArray([rows, 1], random)
    const result = await run({
      x: array(data, [rows, columns]),
      gain: array(gain),
      scale: array(scale, [rows, 1]),
    })
    const near = (what: string, actual: number, expected: number) =>
      expectNear(`${what}, ${columns} columns`, [actual], [expected], 1e-5, 'values')
    for (let row = 0; row < rows; row++) {
      const line = [...data.subarray(row * columns, (row + 1) * columns)]
      const sum = line.reduce((a, b) => a + b, 0)
      const mean = sum / columns
      const deviation = Math.sqrt(line.reduce((sum, x) => sum + (x - mean) ** 2, 0) / columns + 1e-5)
      near('sum', result.sum.data[row], sum)
      assert.equal(result.max.data[row], Math.max(...line))
      assert.equal(result.count.data[row], line.filter(x => x < 0).length)
      line.forEach((x, column) => {
        near('exp', result.y.data[row * columns + column], Math.exp(x * gain[column] + scale[row]))
        near('norm', result.norm.data[row * columns + column], (x - mean) / deviation)
      })
    }
    for (let column = 0; column < columns; column++) {
      near(
        'column sum',
        result.columns.data[column],
        [...data].reduce((sum, x, i) => (i % columns === column ? sum + x : sum), 0),
      )
    }
    near(
      'whole',
      result.whole.item(),
      data.reduce((a, b) => a + b, 0),
    )
  }
})

test('comparisons, truth values and whole numbers', async () => {
  const a = Int32Array.of(-7, 0, 3, 2 ** 31 - 1, -(2 ** 31), 5, 6, 7, 8)
  const b = Int32Array.of(-7, 1, 2, 1, 1, -5, 6, 9, 3)
  const x = Float32Array.of(1, 2, NaN, 0, -0, 2.7, -2.7, 3e9, -3e9)
  const y = Float32Array.of(1, 3, NaN, -0, 0, 2.6, -2.6, 1, 1)
  const run = compile(({ a, b, x, y }) => ({
    sum: a.add(b),
    difference: a.sub(b),
    product: a.mul(b),
    larger: a.maximum(b),
    smaller: a.minimum(b),
    minus: a.neg(),
    equal: a.equal(b).toInt(),
    less: a.less(b).toFloat(),
    lessEqual: a.lessEqual(b).toInt(),
    both: a.less(b).and(b.less(3)).toInt(),
    floats: a.toFloat(),
    ints: x.toInt(),
    chosen: where(a.less(b), a, b),
    floatEqual: x.equal(y).toInt(),
    floatLess: x.less(y).toInt(),
    floatLessEqual: x.lessEqual(y).toInt(),
  }))
  const results = await run({ a: array(a), b: array(b), x: array(x), y: array(y) })
  const expect = (name: keyof typeof results, element: (i: number) => number) =>
    assert.deepEqual(
      [...results[name].data],
      Array.from(a, (_, i) => element(i)),
      name,
    )
  expect('sum', i => (a[i] + b[i]) | 0)
  expect('difference', i => (a[i] - b[i]) | 0)
  expect('product', i => Math.imul(a[i], b[i]))
  expect('larger', i => Math.max(a[i], b[i]))
  expect('smaller', i => Math.min(a[i], b[i]))
  expect('minus', i => -a[i] | 0)
  expect('equal', i => Number(a[i] === b[i]))
  expect('less', i => Number(a[i] < b[i]))
  expect('lessEqual', i => Number(a[i] <= b[i]))
  expect('both', i => Number(a[i] < b[i] && b[i] < 3))
  expect('floats', i => Math.fround(a[i]))
  expect('ints', i =>
    Number.isNaN(x[i]) ? 0 : Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.trunc(x[i]))) + 0,
  )
  expect('chosen', i => Math.min(a[i], b[i]))
  expect('floatEqual', i => Number(x[i] === y[i]))
  expect('floatLess', i => Number(x[i] < y[i]))
  expect('floatLessEqual', i => Number(x[i] <= y[i]))
  assert.ok(results.sum.data instanceof Int32Array && results.floats.data instanceof Float32Array)
})

test('LayerNorm, softmax and its logarithm on rows of very different magnitude, against PyTorch', async () => {
  const [rows, weight, upstream] = ['rows', 'norm_weight', 'd_rows_out'].map(name => golden.float(name))
  const run = compile(({ x, w, g }) => {
    const logits = x.sub(x.max(-1, true).detach())
    const results = {
      norm: layerNorm(x).mul(w),
      softmax: softmax(x),
      log_softmax: logits.sub(logits.exp().sum(-1, true).log()),
    }
    return Object.fromEntries(
      Object.entries(results).flatMap(([name, y]) => {
        const [dx, dw] = grad(y.mul(g).sum(), [x, w])
        return [
          [name, y] as const,
          [`d_${name}`, dx] as const,
          ...(name === 'norm' ? [['d_norm_weight', dw] as const] : []),
        ]
      }),
    )
  })
  const results = await run({
    x: array(rows.data, rows.shape),
    w: array(weight.data),
    g: array(upstream.data, upstream.shape),
  })
  for (const [name, { data }] of Object.entries(results)) {
    const error = pointwiseError(data, golden.float(name).data)
    // PyTorch's own float32 is off by 3e-6 here.
    expectSmall(name, error, 1e-5, name.startsWith('d_') ? 'gradients' : 'values')
  }
})
