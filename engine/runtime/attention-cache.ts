import type { attention } from '../ops/attention.ts'
import { assign } from './assign.ts'
import { softmax } from '../ops/functions.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, arange, full, scatterAdd, where } from '../graph/tensor.ts'
import { type Variable, variable } from './variable.ts'

/** What the attention layers of a network remember of a text that it is given one token at a time. */
export interface AttentionCache {
  /**
   * To be called where a compiled function takes in the next token: returns what stands in for attention()
   * there. Its query, key and value are of that token alone, [1, 1, heads · width], and attend to the tokens
   * before it as well. The first call is the first layer's, the second the second's, and so on.
   */
  next(): typeof attention
}

/** An empty cache that remembers the last `length` tokens. */
export function attentionCache(length: number): AttentionCache {
  // A ring. How many tokens ago each slot was filled: below 0, it has not been.
  const ages = variable(arange(length).neg().sub(1))
  const newest = variable(full([1], -1, 'int32'))
  const layers: { readonly keys: Variable; readonly values: Variable }[] = []

  return {
    next() {
      const [age, slot] = [ages, newest].map(count => {
        const next = count.add(1)
        return assigned(count, where(next.equal(length), 0, next))
      })
      let calls = 0

      return (query, key, value, { heads = 1, slope, scale } = {}) => {
        const [, , queryWidth] = query.shape
        const [, , valueWidth] = value.shape
        const fits = query.size === queryWidth && key.size === queryWidth && value.size === valueWidth
        if (!fits || queryWidth % heads !== 0 || valueWidth % heads !== 0) {
          const shapes = [query, key, value].map(({ shape }) => showShape(shape)).join(', ')
          throw new ShapeError(
            `attention: query, key, value ${shapes} are not those of one token with ${heads} heads`,
          )
        }
        const layer = (layers[calls++] ??= {
          keys: variable(full([length, queryWidth], 0)),
          values: variable(full([length, valueWidth], 0)),
        })
        // Only the slot's row is touched: what it held goes, what is new comes.
        const put = (held: Variable, row: Tensor) =>
          assigned(held, held.add(scatterAdd(row.reshape(1, -1).sub(held.gather(slot)), slot, length)))
        const keys = put(layer.keys, key)
        const values = put(layer.values, value)

        const [keyDim, valueDim] = [queryWidth / heads, valueWidth / heads]
        const scores = query
          .reshape(heads, 1, keyDim)
          .matmul(keys.reshape(length, heads, keyDim).permute([1, 2, 0]))
          .mul(scale ?? 1 / Math.sqrt(keyDim))
        const biased = slope ? scores.sub(age.toFloat().mul(slope.reshape(heads, 1, 1))) : scores
        return softmax(where(age.less(0), -Infinity, biased))
          .matmul(values.reshape(length, heads, valueDim).transpose(0, 1))
          .reshape(1, 1, valueWidth)
      }
    },
  }
}

/** Assigns a variable a value, and returns that. */
function assigned(variable: Variable, value: Tensor): Tensor {
  assign(variable, value)
  return value
}
