import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Tensor, array, attention, attentionCache, compile } from '../../engine/index.ts'
import { startBackend } from '../support/backend.ts'
import { expectNear, productsOf } from '../support/tolerance.ts'

await startBackend()

type Inputs = Readonly<Record<string, Tensor>>

for (const { heads, keyDim, valueDim, sloped } of [
  { heads: 1, keyDim: 5, valueDim: 24, sloped: true },
  { heads: 3, keyDim: 16, valueDim: 9, sloped: true },
  { heads: 2, keyDim: 4, valueDim: 8, sloped: false },
]) {
  const name = `${heads} heads ${sloped ? 'with' : 'without'} slopes`
  test(`token by token it is attention over the last tokens: ${name}`, async () => {
    const [remembered, length] = [7, 19]
    /** The second layer must remember other things than the first. */
    const layers = ({ query, key, value, slope }: Inputs, attend: typeof attention) => {
      const options = sloped ? { heads, slope } : { heads }
      return {
        first: attend(query, key, value, options),
        second: attend(query, key.mul(0.5), value.add(1), options),
      }
    }
    const cache = attentionCache(remembered)
    const step = compile(inputs => layers(inputs, cache.next()))
    const whole = compile(inputs => layers(inputs, attention))

    const widths = { query: heads * keyDim, key: heads * keyDim, value: heads * valueDim }
    const texts = Object.entries(widths).map(([name, width], part) => ({
      name,
      width,
      data: Float32Array.from({ length: length * width }, (_, i) => 2 * Math.sin((i + 1) * (part + 2))),
    }))
    const slope = array(Float32Array.from({ length: heads }, (_, head) => 0.1 + head / 5))
    /** The tokens from `start` to before `end`. */
    const tokens = (start: number, end: number) => ({
      ...Object.fromEntries(
        texts.map(({ name, width, data }) => [
          name,
          array(data.subarray(start * width, end * width), [1, end - start, width]),
        ]),
      ),
      slope,
    })
    for (let end = 1; end <= length; end++) {
      const got = await step(tokens(end - 1, end))
      const recent = tokens(Math.max(0, end - remembered), end)
      const want = await whole(recent)
      const products = await productsOf(whole, recent)
      for (const layer of ['first', 'second'] as const) {
        const last = want[layer].data.subarray(-widths.value)
        expectNear(`token ${end}, ${layer} layer`, got[layer].data, last, 1e-5, 'values', products)
      }
    }
  })
}

test('a cache takes one token at a time', async () => {
  const cache = attentionCache(8)
  const step = compile(({ x }) => ({ out: cache.next()(x, x, x) }))
  await assert.rejects(step({ x: array(new Float32Array(12), [1, 3, 4]) }), {
    name: 'ShapeError',
    message: /\[1, 3, 4\].* one token/,
  })
})
