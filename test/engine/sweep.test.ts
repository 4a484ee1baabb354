/**
 * Every function and method that the engine exports, beside PyTorch: values and derivatives at special and at random
 * points. docs/numerics.md has the same differences in a table.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as engine from '../../engine/index.ts'
import {
  type Tensor,
  Tensor as TensorClass,
  arange,
  array,
  assign,
  attention,
  attentionCache,
  compile,
  concat,
  countOf,
  crossEntropy,
  full,
  gelu,
  inMicrobatches,
  initialize,
  items,
  layerNorm,
  linearCrossEntropy,
  norm,
  parametersOf,
  randomKey,
  randomNormal,
  randomUniform,
  relu,
  rmsNorm,
  scatterAdd,
  sigmoid,
  softmax,
  softplus,
  variable,
  where,
} from '../../engine/index.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import { type Case, type Reach, goldenOf, sweep } from '../support/sweep.ts'

await startBackend()

const isCpu = gpuPrecision === undefined
/** The functions and methods that a test here covers. */
const covered = new Set<string>()
const third = Math.fround(1 / 3)
const most = 3.4028234663852886e38

/** A test of each function; the first word of its name is the function. */
function family(
  name: string,
  cases: Readonly<Record<string, Case>>,
  leaves: readonly string[],
  reach: Reach,
): void {
  for (const [what, each] of Object.entries(cases)) {
    covered.add(what.split(' ')[0])
    test(`${name}: ${what}`, () => sweep(name, what, each, leaves, reach))
  }
}

const isNegativeZero = (x: number) => Object.is(x, -0)

family(
  'unary',
  {
    neg: { apply: x => x.neg(), ulps: [0, 0, 0] },
    abs: { apply: x => x.abs(), ulps: [0, 0, 0] },
    exp: { apply: x => x.exp(), ulps: [1, 1, 1] },
    log: { apply: x => x.log(), ulps: [1, 0, 1], isPositive: true },
    log1p: {
      apply: x => x.log1p(),
      ulps: [1, 1, 2],
      isPositive: true,
      differences: [
        {
          at: ([x]) => x === most,
          ours: () => Math.log(most),
          why: 'PyTorch overflows in vectors of numbers, and not in the rest',
        },
      ],
    },
    sqrt: { apply: x => x.sqrt(), ulps: [0, 1, 2], isPositive: true },
    reciprocal: { apply: x => x.reciprocal(), ulps: [0, 1, 3] },
    rsqrt: { apply: x => x.rsqrt(), ulps: [1, 3, 4], isPositive: true },
    square: {
      apply: x => x.square(),
      ulps: [0, 0, 0],
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => x === most,
          ours: ([x], weight) => 2 * weight * x,
          why: 'PyTorch computes 2x first, which is infinite',
        },
      ],
    },
    sin: { apply: x => x.sin(), ulps: [1, 1, 1] },
    cos: { apply: x => x.cos(), ulps: [1, 1, 1] },
    // 1 - tanh² is of two numbers that are nearly the same.
    tanh: { apply: x => x.tanh(), ulps: [2, 2, 4], of: ['each', 4, 16] },
    // exp(-x²): rounding x² counts x² times.
    erf: { apply: x => x.erf(), ulps: [2, 7, 7] },
    floor: { apply: x => x.floor(), ulps: [0, 0, 0] },
    detach: { apply: x => x.detach(), ulps: [0, 0, 0] },
    toFloat: { apply: x => x.toFloat().mul(1), ulps: [0, 0, 0] },
    // 1 + erf is of two numbers that are nearly the same where x is negative.
    gelu: {
      apply: gelu,
      ulps: [2, 1, 1],
      of: [1, 4, 16],
      differences: [
        {
          at: ([x]) => isNegativeZero(x) || x === -(2 ** -149) || (x <= -20 && x > -Infinity),
          ours: () => -0,
          why: 'PyTorch gives 0, and -0 is what is left of a negative number',
        },
      ],
    },
    relu: {
      apply: relu,
      ulps: [0, 0, 0],
      differences: [
        { at: ([x]) => isNegativeZero(x), ours: () => 0, why: 'one selection gives 0 where x <= 0' },
      ],
    },
    sigmoid: {
      apply: sigmoid,
      // PyTorch's own slope is off by 7 at 2.
      ulps: [1, 8, 1],
      of: ['each', 'each', 16],
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => x === 20,
          ours: ([x], weight) => weight * Math.exp(-x),
          why: 'PyTorch takes the sigmoid from 1, and 0 is left',
        },
      ],
    },
    softplus: { apply: softplus, ulps: [2, 1, 2] },
    ...Object.fromEntries(
      [0, 1, 3, 4, 5, 10, -3].map((power): [string, Case] => [
        `pow ${power}`,
        { apply: x => x.pow(power), ulps: [2, 2, 2] },
      ]),
    ),
    ...Object.fromEntries(
      [0.5, 2.5, -1.7].map((power): [string, Case] => [
        `pow ${power}`,
        { apply: x => x.pow(power), ulps: [1, 1, 2], isPositive: true },
      ]),
    ),
    'pow 1/3': {
      apply: x => x.pow(1 / 3),
      ulps: [1, 2, 3],
      isPositive: true,
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => x > 0 && x < 1e-5,
          ours: ([x], weight) => weight * third * x ** (third - 1),
          why: 'PyTorch rounds the power -2/3 to float32',
        },
      ],
    },
    'pow 2': {
      apply: x => x.pow(2),
      ulps: [0, 0, 0],
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => x === most,
          ours: ([x], weight) => 2 * weight * x,
          why: 'PyTorch computes 2x first, which is infinite',
        },
      ],
    },
    'pow -0.5': {
      apply: x => x.pow(-0.5),
      ulps: [1, 3, 4],
      isPositive: true,
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => isNegativeZero(x),
          ours: (_, weight) => weight * Infinity,
          why: 'it is rsqrt, which has this slope in PyTorch too',
        },
        {
          kind: 'd_x',
          at: ([x]) => x === -Infinity,
          ours: () => NaN,
          why: 'it is rsqrt, which has this slope in PyTorch too',
        },
      ],
    },
    'pow -1': {
      apply: x => x.pow(-1),
      ulps: [0, 1, 3],
      differences: [
        {
          kind: 'd_x',
          at: ([x]) => Math.abs(x) === Math.fround(1e20),
          ours: ([x], weight) => -weight * Math.fround(Math.fround(1 / x) ** 2),
          why: 'PyTorch computes x² first, which is infinite',
        },
      ],
    },
    'pow -2': {
      apply: x => x.pow(-2),
      ulps: [1, 1, 1],
      differences: [
        {
          at: ([x]) => Math.abs(x) === Math.fround(1e20),
          ours: ([x]) => Math.fround(1 / x / x),
          why: 'PyTorch computes x² first, which is infinite',
        },
      ],
    },
  },
  ['x'],
  'element',
)

family(
  'binary',
  {
    add: { apply: (x, y) => x.add(y), ulps: [0, 0, 0] },
    sub: { apply: (x, y) => x.sub(y), ulps: [0, 0, 0] },
    mul: { apply: (x, y) => x.mul(y), ulps: [0, 0, 0] },
    div: { apply: (x, y) => x.div(y), ulps: [0, 2, 4] },
    maximum: {
      apply: (x, y) => x.maximum(y),
      ulps: [0, 0, 0],
      differences: [
        {
          at: ([x, y]) => Object.is(x, 0) && isNegativeZero(y),
          ours: () => 0,
          why: 'PyTorch gives the second of two zeros, here 0 is above -0',
        },
      ],
    },
    minimum: {
      apply: (x, y) => x.minimum(y),
      ulps: [0, 0, 0],
      differences: [
        {
          at: ([x, y]) => isNegativeZero(x) && Object.is(y, 0),
          ours: () => -0,
          why: 'PyTorch gives the second of two zeros, here -0 is below 0',
        },
      ],
    },
    where: { apply: (x, y) => where(x.less(y), x, y), ulps: [0, 0, 0] },
  },
  ['x', 'y'],
  'element',
)

const middle = (x: Tensor) => x.reshape(-1, 5, 6).transpose(1, 2)
const sums: Case['of'] = ['largest', 'largest', 'largest']
family(
  'rows',
  {
    sum: { apply: x => x.sum(-1), ulps: [1, 0, 0], of: [4, 'each', 'each'] },
    mean: { apply: x => x.mean(-1), ulps: [1, 0, 0], of: [1, 'each', 'each'] },
    max: { apply: x => x.max(-1), ulps: [0, 0, 0] },
    'sum of columns': { apply: x => x.T.sum(0), ulps: [1, 0, 0], of: [4, 'each', 'each'] },
    'mean of columns': { apply: x => x.T.mean(0), ulps: [1, 0, 0], of: [1, 'each', 'each'] },
    'max of columns': { apply: x => x.T.max(0), ulps: [0, 0, 0] },
    'sum of the middle': { apply: x => middle(x).sum(1), ulps: [1, 0, 0], of: [4, 'each', 'each'] },
    'mean of the middle': { apply: x => middle(x).mean(1), ulps: [1, 0, 0], of: [1, 'each', 'each'] },
    'max of the middle': { apply: x => middle(x).max(1), ulps: [0, 0, 0] },
    softmax: { apply: softmax, ulps: [2, 1, 1], of: ['each', 4, 16] },
    layerNorm: {
      apply: x => layerNorm(x),
      ulps: [1, 2, 3],
      of: sums,
      differences: ['', 'd_x'].map(kind => ({
        kind,
        at: ([first]: readonly number[]) => first === -most || first === Math.fround(1e20),
        ours: () => 0,
        why: 'squares overflow, and the rest is 0 times the row; PyTorch has NaN',
      })),
    },
    rmsNorm: {
      apply: x => rmsNorm(x),
      ulps: [1, 1, 4],
      of: sums,
      differences: [
        {
          kind: 'd_x',
          at: (row, _, element) => row[0] === -most && element === 0,
          ours: () => 0,
          why: 'squares overflow, and the rest is 0 times the row; in plain PyTorch it is 0 times infinity',
        },
      ],
    },
  },
  ['x'],
  'row',
)

family(
  'scalars',
  {
    sum: { apply: x => x.sum(), ulps: [1, 0, 0], of: [4, 'each', 'each'] },
    mean: { apply: x => x.mean(), ulps: [1, 0, 0], of: [1, 'each', 'each'] },
    max: { apply: x => x.max(), ulps: [0, 0, 0] },
    norm: { apply: x => norm([x]), ulps: [1, 1, 1], of: sums },
  },
  ['x'],
  'call',
)

family(
  'product',
  { matmul: { apply: (x, y) => x.matmul(y), ulps: [4, 4, 4], of: sums, products: 2 } },
  ['x', 'y'],
  'call',
)

const attentionLeaves = ['q', 'k', 'v', 's']
family(
  'attention',
  {
    attention: {
      apply: (q, k, v, slope) => attention(q, k, v, { heads: 2, slope }),
      ulps: [2, 20, 10],
      of: sums,
      products: 6,
      differences: [
        {
          kind: 'd_v',
          at: (inputs, call, element) => {
            const [plain, masked] = ['d_attention_v', 'd_masked_v'].map(
              name => goldenOf('attention').float(name).data[call * 24 + element],
            )
            return Number.isNaN(plain) && !Number.isNaN(masked)
          },
          ours: (_, __, call, element) => goldenOf('attention').float('d_masked_v').data[call * 24 + element],
          why: 'keys after a query count as nothing, even if the query is NaN; in plain PyTorch 0 times NaN is NaN',
        },
      ],
    },
    'attention of scale -0.7': {
      apply: (q, k, v, slope) => attention(q, k, v, { heads: 2, slope, scale: -0.7 }),
      ulps: [2, 28, 20],
      of: sums,
      products: 6,
    },
  },
  attentionLeaves,
  'call',
)

const targets = (name: string) => array(goldenOf('head').int(name).data)
const chosen = { special: variable(targets('targets')), random: variable(targets('random_targets')) }
const targetsOf = (rows: number) => (rows === chosen.random.size ? chosen.random : chosen.special)
family(
  'head',
  {
    crossEntropy: {
      apply: x => crossEntropy(x, targetsOf(x.shape[0])).loss,
      ulps: [2, 1, 2],
      of: [1, 4, 16],
    },
  },
  ['x'],
  'row',
)
family(
  'head',
  {
    linearCrossEntropy: {
      apply: (x, weight) => linearCrossEntropy(x, weight, targetsOf(x.shape[0])).loss,
      ulps: [1, 1, 10],
      of: [4, 4, 16],
      products: 3,
    },
  },
  ['x', 'y'],
  'row',
)

test('head: whether the target is the largest', async () => {
  const golden = goldenOf('head')
  const { data, shape } = golden.float('x')
  const run = compile(({ x, weight }) => ({
    plain: crossEntropy(x, chosen.special).correct,
    linear: linearCrossEntropy(x, weight, chosen.special).correct,
  }))
  const identity = Float32Array.from({ length: 36 }, (_, i) => Number(i % 7 === 0))
  const { plain, linear } = await run({ x: array(data, shape), weight: array(identity, [6, 6]) })
  golden.int('correct').data.forEach((wanted, row) => {
    const own = [...data.subarray(row * 6, row * 6 + 6)]
    if (!isCpu && !own.every(isSafe)) return
    assert.equal(plain.data[row], wanted, `row ${row}`)
    // Another row's infinity is multiplied by 0.
    if (own.every(Number.isFinite)) assert.equal(linear.data[row], wanted, `row ${row} of a product`)
  })
})

const indices = variable(array(goldenOf('movement').int('indices').data))
const exact = { ulps: [0, 1, 1] } as const
family(
  'movement',
  {
    T: { apply: x => x.T, ...exact },
    transpose: { apply: x => x.reshape(5, 2, 3).transpose(0, 2), ...exact },
    permute: { apply: x => x.reshape(5, 2, 3).permute([1, 2, 0]), ...exact },
    reshape: { apply: x => x.reshape(3, 10), ...exact },
    broadcastTo: { apply: x => x.reshape(5, 1, 6).broadcastTo([5, 2, 6]), ...exact },
    slice: { apply: x => x.slice(0, 1, 4).slice(1, 2, 5), ...exact },
    split: { apply: x => concat(x.split([1, 3, 2], 1).map((part, i) => part.mul(i + 1))), ulps: [2, 2, 2] },
    concat: { apply: x => concat([x, x.slice(1, 1, 3), x]), ...exact },
    gather: { apply: x => x.gather(indices), ...exact },
    scatterAdd: { apply: x => scatterAdd(x, indices, 4), ulps: [1, 1, 1], of: [1, 4, 16] },
  },
  ['x'],
  'moved',
)

/** Whether a GPU has to compute with a number and its square as they are. */
const isSafe = (x: number) => x === 0 || (Math.abs(x) > 1e-18 && Math.abs(x) < 1e18)

test('whole numbers: every operation of int32 and bool, conversions', async () => {
  const golden = goldenOf('whole')
  const points = golden.int('points')
  const size = points.data.length
  const run = compile(({ points, floats }) => {
    const [x, y] = [points.reshape(size, 1), points]
    const all = { x: x.broadcastTo([size, size]), y: y.broadcastTo([size, size]) }
    const [xIs, yIs] = [all.x, all.y].map(each => each.equal(0).equal(0))
    const truth = points.equal(0).equal(0)
    return {
      add: x.add(y),
      sub: x.sub(y),
      mul: x.mul(y),
      maximum: x.maximum(y),
      minimum: x.minimum(y),
      and: x.and(y),
      equal: x.equal(y).toInt(),
      less: x.less(y).toInt(),
      lessEqual: x.lessEqual(y).toInt(),
      where: where(x.less(y), all.x, all.y),
      'and of bool': xIs.and(yIs).toInt(),
      'equal of bool': xIs.equal(yIs).toInt(),
      neg: points.neg(),
      square: points.square(),
      toFloat: points.toFloat(),
      toInt: points.toInt(),
      'toFloat of bool': truth.toFloat(),
      'toInt of bool': truth.toInt(),
      ...Object.fromEntries([0, 1, 2, 3, 5, 8].map(power => [`pow ${power}`, points.pow(power)])),
      'toInt of floats': floats.toInt(),
      arange: arange(7),
    }
  })
  const results = await run({ points: array(points.data), floats: array(golden.float('floats').data) })
  for (const [name, { data }] of Object.entries(results)) {
    covered.add(name.split(' ')[0])
    const expected = name.startsWith('toFloat') ? golden.float(name) : golden.int(name)
    assert.deepEqual([...data], [...expected.data], name)
  }
})

test('a number beside a tensor is the same as a tensor of that number', async () => {
  const golden = goldenOf('binary')
  const points = golden.float('points').data
  const operations: Record<string, (x: Tensor, y: Tensor | number) => Tensor> = {
    add: (x, y) => x.add(y),
    sub: (x, y) => x.sub(y),
    mul: (x, y) => x.mul(y),
    div: (x, y) => x.div(y),
    maximum: (x, y) => x.maximum(y),
    minimum: (x, y) => x.minimum(y),
    equal: (x, y) => x.equal(y).toInt(),
    less: (x, y) => x.less(y).toInt(),
    lessEqual: (x, y) => x.lessEqual(y).toInt(),
  }
  for (const [name, apply] of Object.entries(operations)) {
    covered.add(name)
    const run = compile(({ x }): Record<string, Tensor> => ({
      ...Object.fromEntries([...points].map((y, i) => [`${i}`, apply(x, y)])),
      tensor: apply(x.reshape(-1, 1), x),
      constant: apply(full([points.length], 1).mul(x).reshape(-1, 1), full([points.length], 1).mul(x)),
    }))
    const isWhole = ['equal', 'less', 'lessEqual'].includes(name)
    const expected = isWhole ? golden.int(name).data : golden.float(name).data
    const { tensor, constant, ...others } = await run({ x: array(points) })
    const numbers = Object.values(others)
    const check = (actual: number, i: number, j: number) => {
      const [x, y, wanted] = [points[i], points[j], expected[i * points.length + j]]
      if (!isCpu && ![x, y, wanted].every(isSafe)) return
      // Of two zeros either is the larger one; a GPU's quotient is off by up to 2.5 units.
      const isZero = actual === 0 && wanted === 0
      const isNear = !isCpu && Math.abs(actual - wanted) <= 3e-7 * Math.abs(wanted)
      assert.ok(
        Object.is(actual, wanted) || isZero || isNear,
        `${name} of ${x} and ${y}: ${actual}, not ${wanted}`,
      )
    }
    points.forEach((_, i) =>
      points.forEach((_, j) => {
        check(numbers[j].data[i], i, j)
        check(tensor.data[i * points.length + j], i, j)
        check(constant.data[i * points.length + j], i, j)
      }),
    )
  }
})

for (const name of ['array', 'variable', 'assign', 'full', 'items']) covered.add(name)
test('what only keeps numbers keeps every bit: array, variable, read, write, assign, full', async () => {
  const { data } = goldenOf('unary').float('x')
  const x = array(data)
  const [first, second] = [variable(x), variable(full([data.length], 0))]
  await compile(({ x }) => assign(second, x)).update({ x })
  const third = variable(array(new Float32Array(data.length)))
  await third.write(x)
  const results = [await first.read(), await second.read(), await third.read()]
  for (const { data: kept } of results)
    data.forEach((value, i) =>
      assert.ok(Object.is(kept[i], value) || (!isCpu && !Number.isFinite(value)), `${value}`),
    )
  const constants = await compile(() =>
    Object.fromEntries([...data].map((value, i) => [`${i}`, full([], value)])),
  )()
  const kept: Readonly<Record<string, number>> = items<string>(constants)
  data.forEach((value, i) => {
    if (isCpu || value === 0 || isSafe(value)) assert.equal(kept[`${i}`], value)
  })
})

covered.add('inMicrobatches')
test('inMicrobatches is the same mean, with the same gradient', async () => {
  const golden = goldenOf('head')
  const { data, shape } = golden.float('random_x')
  const run = compile(({ x, t }) => {
    const { loss } = inMicrobatches(3, part => ({ loss: crossEntropy(part(x), part(t)).loss.mean() }))
    return { loss, gradient: engine.grad(loss, [x])[0] }
  })
  const whole = compile(({ x, t }) => {
    const loss = crossEntropy(x, t).loss.mean()
    return { loss, gradient: engine.grad(loss, [x])[0] }
  })
  const inputs = { x: array(data, shape), t: targets('random_targets') }
  const [pieces, wanted] = [await run(inputs), await whole(inputs)]
  const losses = golden.float('random_crossEntropy').data
  const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length
  assert.ok(Math.abs(pieces.loss.item() / mean - 1) < (isCpu ? 3e-7 : 2e-6))
  pieces.gradient.data.forEach((value, i) => assert.ok(Math.abs(value - wanted.gradient.data[i]) < 1e-7))
})

covered.add('attentionCache')
test(
  'attentionCache, one token after another',
  { skip: (gpuPrecision === 'f16' || gpuPrecision === 'matrix') && 'needs float32 products' },
  async () => {
    const golden = goldenOf('attention')
    const whole = Object.fromEntries(['q', 'k', 'v'].map(name => [name, golden.float(`random_${name}`)]))
    const expected = golden.float('random_attention').data
    const cache = attentionCache(6)
    const step = compile(({ q, k, v, slope }) => ({ out: cache.next()(q, k, v, { heads: 2, slope }) }))
    for (let token = 0; token < 6; token++) {
      const rows = Object.entries(whole).map(([name, { data, shape }]) => {
        const width = shape[2]
        return [
          name,
          array(Float32Array.from(data.subarray(token * width, (token + 1) * width)), [1, 1, width]),
        ] as const
      })
      const { out } = await step({ ...Object.fromEntries(rows), slope: array(golden.float('random_s').data) })
      out.data.forEach((value, i) =>
        assert.ok(Math.abs(value - expected[token * 4 + i]) < 2e-6, `token ${token}: ${value}`),
      )
    }
    covered.add('attentionCache')
  },
)

for (const name of ['randomKey', 'randomUniform', 'randomNormal', 'initialize', 'countOf', 'parametersOf'])
  covered.add(name)
test('random numbers keep to their ranges, whatever the key', async () => {
  const keys = [0, 1, -1, 2 ** 31 - 1, -(2 ** 31), randomKey(0, ''), randomKey(2 ** 53 - 1, 'x')]
  assert.ok(keys.every(key => key === (key | 0)))
  const { uniform, normal } = await compile(({ keys }) => {
    const each = keys.split(Array.from(keys.shape, size => Array<number>(size).fill(1))[0], 0)
    const draw = (make: (key: Tensor) => Tensor) =>
      concat(
        each.map(key => make(key.reshape())),
        0,
      )
    return {
      uniform: draw(key => randomUniform([20_000], key)),
      normal: draw(key => randomNormal([20_000], key, 3)),
    }
  })({ keys: array(Int32Array.from(keys)) })
  assert.ok(uniform.data.every(value => value >= 0 && value < 1))
  // The least of 2^24 uniform numbers makes the largest normal one: sqrt(-2 log(2^-24)) = 5.77.
  assert.ok(normal.data.every(value => Math.abs(value) < 3 * 5.8))
  const made = initialize(2 ** 53 - 1, { x: key => randomNormal([1000], key), y: [variable(array([1]))] })
  assert.ok((await made.x.read()).data.every(value => Math.abs(value) < 5.8))
  assert.equal(countOf(made), 1001)
  assert.deepEqual(
    parametersOf(made).map(([name]) => name),
    ['x', 'y.0'],
  )
})

test('every function and method that the engine exports is in one of these', () => {
  // What runs, traces and fails, and classes whose methods are in the list or were used throughout.
  const computesNothing = [
    'CpuBackend',
    'GpuError',
    'MemoryError',
    'NDArray',
    'ShapeError',
    'Tensor',
    'Variable',
    'compile',
    'cpuBackend',
    'gpuBackend',
    'grad',
    'recordOrigins',
    'useBackend',
  ]
  const methods = Object.getOwnPropertyNames(TensorClass.prototype).filter(
    name => !['constructor', 'size'].includes(name),
  )
  const known = new Set([...Object.keys(engine), ...methods])
  const missing = [...known].filter(name => !covered.has(name) && !computesNothing.includes(name))
  assert.deepEqual(missing, [], 'in no test here')
  assert.deepEqual(
    [...covered, ...computesNothing].filter(name => !known.has(name)),
    [],
    'not exported',
  )
  assert.deepEqual(
    computesNothing.filter(name => covered.has(name)),
    [],
  )
})
