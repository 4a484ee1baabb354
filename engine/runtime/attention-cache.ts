/** A cache of keys and values, for generating text one token at a time. */
import type { attention } from '../ops/attention.ts'
import { assign } from './assign.ts'
import { softmax } from '../ops/functions.ts'
import { ShapeError, showShape } from '../graph/shape.ts'
import { type Tensor, arange, full, scatterAdd, where } from '../graph/tensor.ts'
import { type Variable, variable } from './variable.ts'

/** The keys and values of earlier tokens, for each attention layer of a network. */
export interface AttentionCache {
  /**
   * Starts the next token, in a compiled function. Returns a function to use in place of attention(): its query, key and
   * value, [1, 1, heads · width], are those of this token alone, and it attends to the tokens before as well. Its first
   * call is for the first layer, its second call for the second, and so on.
   */
  next(): typeof attention
}

/** An empty cache for the last `length` tokens. */
export function attentionCache(length: number): AttentionCache {
  // A ring buffer. How many tokens ago each slot was filled; negative if it is empty.
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
        // Adds the difference to the slot's row, so that no other row is touched.
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

/** Assigns a value to a variable, and returns the value. */
function assigned(variable: Variable, value: Tensor): Tensor {
  assign(variable, value)
  return value
}
