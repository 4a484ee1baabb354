/** attention() beside the same by plain operations: any scale, scores of any size, and derivatives of derivatives. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  ShapeError,
  type Tensor,
  arange,
  array,
  attention,
  compile,
  grad,
  softmax,
  where,
} from '../../engine/index.ts'
import { isHalf, expectNear, productsOf } from '../support/tolerance.ts'
import { gpuPrecision, startBackend } from '../support/backend.ts'
import { randomArray, seeded } from '../support/reference.ts'

await startBackend()

interface Options {
  readonly heads: number
  readonly scale: number
  readonly slope?: Tensor
}

/** attention(), with scores that are stored. */
function plain(query: Tensor, key: Tensor, value: Tensor, { heads, scale, slope }: Options): Tensor {
  const [batch, length] = query.shape
  const [q, k, v] = [query, key, value].map(x => x.reshape(batch, length, heads, -1).transpose(1, 2))
  const distance = arange(length).reshape(1, length).sub(arange(length).reshape(length, 1))
  const scores = q.matmul(k.T).mul(scale)
  const biased = slope ? scores.add(slope.reshape(heads, 1, 1).mul(distance.toFloat())) : scores
  const weights = softmax(where(distance.lessEqual(0), biased, -Infinity))
  return weights.matmul(v).transpose(1, 2).reshape(batch, length, -1)
}

interface Sizes {
  readonly batch: number
  readonly length: number
  readonly heads: number
  readonly keyDim: number
  readonly valueDim: number
}

function inputsOf({ batch, length, heads, keyDim, valueDim }: Sizes, largest = 1) {
  const random = seeded(length)
  const made = (...shape: number[]) => array(Float32Array.from(randomArray(shape, random, -1, 1)), shape)
  const scaled = (...shape: number[]) =>
    array(Float32Array.from(randomArray(shape, random, -largest, largest)), shape)
  return {
    q: scaled(batch, length, heads * keyDim),
    k: made(batch, length, heads * keyDim),
    v: made(batch, length, heads * valueDim),
    slope: made(heads),
    weights: made(batch, length, heads * valueDim),
  }
}

const allSizes: Sizes[] = [
  { batch: 2, length: 1, heads: 1, keyDim: 3, valueDim: 2 },
  { batch: 1, length: 5, heads: 2, keyDim: 2, valueDim: 1 },
  { batch: 2, length: 20, heads: 2, keyDim: 8, valueDim: 12 },
  { batch: 1, length: 131, heads: 1, keyDim: 16, valueDim: 33 },
]

// A driver that computes on the CPU takes minutes to compile the kernels of all of these.
const sizes = gpuPrecision ? [allSizes[2]] : allSizes
const scales = gpuPrecision ? [0, -0.7] : [0.5, 0, -0, -0.7, 3, 1e-30, -1e-42, 1e-50]

for (const scale of scales)
  test(`attention and its gradients with a scale of ${Object.is(scale, -0) ? '-0' : scale}`, async () => {
    for (const size of sizes)
      for (const hasSlope of [false, true]) {
        const both = [attention, plain].map(attend =>
          compile(({ q, k, v, slope, weights }) => {
            const asked = [q, k, v, ...(hasSlope ? [slope] : [])]
            const out = attend(q, k, v, { heads: size.heads, scale, ...(hasSlope && { slope }) })
            const gradients = grad(out.mul(weights).sum(), asked)
            return Object.fromEntries([['out', out], ...gradients.map((g, i) => [`d${i}`, g] as const)])
          }),
        )
        const inputs = inputsOf(size)
        const [fused, expected] = await Promise.all(both.map(run => run(inputs)))
        // Both round to f16 on a GPU, so the errors of both add up.
        const products = (await productsOf(both[0], inputs)) + (await productsOf(both[1], inputs))
        for (const [name, { data }] of Object.entries(fused)) {
          const quantity = name === 'out' ? 'values' : 'gradients'
          expectNear(
            `${name} of ${size.length}`,
            data,
            expected[name].data,
            quantity === 'values' ? 2e-6 : 2e-5,
            quantity,
            // The slope's gradient is a sum of terms that cancel: its relative error is about twice as large.
            name === 'd3' ? 4 * products : products,
          )
        }
      }
  })

test('attention with scale 0 is the mean of the values so far', async () => {
  const run = compile(({ q, k, v }) => ({ out: attention(q, k, v, { scale: 0 }) }))
  const { q, k } = inputsOf({ batch: 1, length: 5, heads: 1, keyDim: 2, valueDim: 1 })
  const { out } = await run({ q, k, v: array(Float32Array.of(1, 2, 3, 4, 5), [1, 5, 1]) })
  expectNear('out', out.data, [1, 1.5, 2, 2.5, 3], 1e-6, 'values', 1)
})

// Products of float16 end at 65,504.
for (const largest of isHalf ? [1e3] : [1e4, 1e20, 1e32])
  test(`attention with scores around ${largest}, of either sign`, async () => {
    for (const scale of [1, -1])
      for (const size of sizes) {
        const inputs = inputsOf(size, largest)
        // No score of the first key's is near another: all weight is on one key.
        const both = [attention, plain].map(attend =>
          compile(({ q, k, v, weights }) => {
            const out = attend(q.abs(), k.abs().neg(), v, { heads: size.heads, scale })
            return { out, dv: grad(out.mul(weights).sum(), [v])[0] }
          }),
        )
        const [fused, expected] = await Promise.all(both.map(run => run(inputs)))
        if (isHalf) {
          assert.ok([...fused.out.data, ...fused.dv.data].every(Number.isFinite))
          continue
        }
        expectNear(`out of ${size.length}`, fused.out.data, expected.out.data, 1e-5, 'values')
        // The logarithm of a sum of exponentials is rounded as a score is: to within 5e-4 if it is around 10,000.
        expectNear(`dv of ${size.length}`, fused.dv.data, expected.dv.data, 1e-3, 'gradients')
      }
  })

test(
  'gradients where one score is far above all others',
  { skip: isHalf && 'float16 ends too early, or has too few digits' },
  async () => {
    for (const largest of gpuPrecision ? [1e6, 1e9] : [1e6, 1e20, 1e36])
      for (const size of sizes) {
        const inputs = inputsOf(size)
        const both = [attention, plain].map(attend =>
          compile(({ q, k, v, slope, weights }) => {
            // The first key's score is around the largest, and others' are not: all weight is on that key.
            const isFirst = arange(size.length).reshape(1, size.length, 1).equal(0)
            const key = where(isFirst, k.abs().add(1).mul(largest), k)
            const out = attend(q.abs().add(0.5), key, v, { heads: size.heads, scale: 0.3, slope })
            return { out, dv: grad(out.mul(weights).sum(), [v])[0] }
          }),
        )
        const [fused, expected] = await Promise.all(both.map(run => run(inputs)))
        expectNear(`out of ${size.length}`, fused.out.data, expected.out.data, 1e-5, 'values')
        expectNear(`dv of ${size.length}`, fused.dv.data, expected.dv.data, 1e-5, 'gradients')
      }
  },
)

test('attention refuses a scale that is not finite, and operands that are not float32', async () => {
  const refused = (body: (q: Tensor, t: Tensor) => Tensor) =>
    compile(({ q, t }) => ({ y: body(q, t) }))({
      q: array(new Float32Array(6), [1, 3, 2]),
      t: array(new Int32Array(6), [1, 3, 2]),
    })
  await Promise.all([
    ...[NaN, Infinity, -Infinity, 1e39].map(scale =>
      assert.rejects(
        refused(q => attention(q, q, q, { scale })),
        /^RangeError: attention: scale must be finite in float32, not/,
      ),
    ),
    ...[0, -1, 0.5, NaN].map(heads =>
      assert.rejects(
        refused(q => attention(q, q, q, { heads })),
        ShapeError,
      ),
    ),
    assert.rejects(
      refused((q, t) => attention(q, q, t)),
      /must be float32, not int32/,
    ),
  ])
})

test('second and third derivatives through attention', async () => {
  for (const size of sizes.slice(0, 3))
    for (const hasSlope of [false, true]) {
      const both = [attention, plain].map(attend =>
        compile(({ q, k, v, slope, weights }) => {
          const asked = [q, k, v, ...(hasSlope ? [slope] : []), weights]
          const out = attend(q, k, v, { heads: size.heads, scale: -0.8, ...(hasSlope && { slope }) })
          const first = grad(out.mul(weights).square().sum(), asked)
          // Of each gradient by itself, so that none hides behind another.
          const second = first.flatMap(g => grad(g.sin().sum(), asked))
          const sum = second.map(g => g.square().sum()).reduce((a, b) => a.add(b))
          const third = size.length < 10 ? grad(sum, asked) : []
          return Object.fromEntries([...second, ...third].map((g, i) => [`d${i}`, g] as const))
        }),
      )
      const inputs = inputsOf(size)
      const [fused, expected] = await Promise.all(both.map(run => run(inputs)))
      // Both round to f16 on a GPU, so the errors of both add up.
      const products = (await productsOf(both[0], inputs)) + (await productsOf(both[1], inputs))
      for (const [name, { data }] of Object.entries(fused)) {
        expectNear(`${name} of ${size.length}`, data, expected[name].data, 1e-4, 'gradients', products)
      }
    }
})

test('the second derivative through attention of one tensor with itself, beside differences of the first', async () => {
  const run = compile(({ x }) => {
    const [first] = grad(attention(x, x, x).square().sum(), [x])
    const size = first.square().sum()
    return { size, second: grad(size, [x])[0] }
  })
  const x = Float32Array.from({ length: 6 }, (_, i) => Math.sin(i + 1))
  const at = (data: Float32Array) => run({ x: array(data, [1, 3, 2]) })
  const { second } = await at(x)
  const step = 5e-3
  const differences = await Promise.all(
    Array.from(x, async (value, i) => {
      const [above, below] = [x.with(i, value + step), x.with(i, value - step)]
      return ((await at(above)).size.item() - (await at(below)).size.item()) / (2 * step)
    }),
  )
  if (!isHalf) expectNear('second', second.data, differences, 1e-3, 'gradients')
})

test(
  'attention of ten thousand tokens keeps its digits',
  { skip: isHalf && 'float16 ends too early, or has too few digits' },
  async () => {
    const length = 10_000
    const run = compile(({ q, v, slope }) => {
      const out = attention(q, q, v, { slope, scale: 1 })
      const [dv, dSlope] = grad(out.slice(1, length - 1, length).sum(), [v, slope])
      return { last: out.slice(1, length - 1, length), dv, dSlope }
    })
    const { last, dv } = await run({
      q: array(new Float32Array(length).fill(1), [1, length, 1]),
      v: array(new Float32Array(length).fill(0.1), [1, length, 1]),
      slope: array(Float32Array.of(0)),
    })
    // All weights are the same, and so are all values.
    expectNear('the last token', last.data, [Math.fround(0.1)], 3e-7, 'values')
    expectNear(
      'gradients of values',
      dv.data.map(g => g * length),
      new Array(length).fill(1),
      2e-6,
      'gradients',
    )
  },
)
