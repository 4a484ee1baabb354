import type { AttentionOptions } from './graph.ts'
import { ShapeError, showShape } from './shape.ts'
import { type Tensor, node } from './tensor.ts'

/**
 * Causal attention, softmax(scale · q·kᵀ + slope · (j − i)) · v over the keys j ≤ i of each query i.
 *
 * query and key are [batch, length, heads · keyDim], value is [batch, length, heads · valueDim], and
 * so is the result. slope, if given, is [heads]: a bias that grows with the distance (Press et al.
 * 2021, ALiBi; learned here). scale defaults to 1/√keyDim. The length × length scores are never
 * stored (Dao et al. 2022). Throws ShapeError when the shapes do not fit together.
 */
export function attention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  { heads = 1, slope, scale }: { heads?: number; slope?: Tensor; scale?: number } = {},
): Tensor {
  const [batch, length, queryWidth] = query.shape
  const width = value.shape[2]
  const fits =
    query.shape.length === 3 &&
    showShape(key.shape) === showShape(query.shape) &&
    showShape(value.shape) === showShape([batch, length, width]) &&
    queryWidth % heads === 0 &&
    width % heads === 0 &&
    (!slope || showShape(slope.shape) === showShape([heads]))
  if (!fits) {
    const shapes = [query, key, value, ...(slope ? [slope] : [])].map(({ shape }) => showShape(shape))
    throw new ShapeError(
      `attention: query, key, value${slope ? ', slope' : ''} ${shapes.join(', ')} do not fit together with ${heads} heads`,
    )
  }
  const options: AttentionOptions = { heads, scale: scale ?? 1 / Math.sqrt(queryWidth / heads) }
  const inputs = [query, key, value, ...(slope ? [slope] : [])]
  const both = node({ kind: 'attention', ...options }, inputs, [], 'float32')
  return node({ kind: 'element', index: 0 }, [both], value.shape, 'float32')
}

/** Gradients of attention's inputs, given the node, its out and the gradient of out. */
export function attentionGradient(
  both: Tensor,
  { heads, scale }: AttentionOptions,
  out: Tensor,
  g: Tensor,
): Tensor[] {
  const [query, key, value, slope] = both.inputs
  const [batch, length] = query.shape
  const logSumExp = node({ kind: 'element', index: 1 }, [both], [batch, heads, length], 'float32')
  const inputs = [...both.inputs, out, logSumExp, g]
  const all = node({ kind: 'attentionGradient', heads, scale }, inputs, [], 'float32')
  const element = (index: number, shape: readonly number[]) =>
    node({ kind: 'element', index }, [all], shape, 'float32')
  return [
    ...[query, key, value].map(({ shape }, index) => element(index, shape)),
    // Each sequence's share of the slopes' gradient; the sum over the batch is the graph's.
    ...(slope ? [element(3, [batch, heads]).sum(0)] : []),
  ]
}
