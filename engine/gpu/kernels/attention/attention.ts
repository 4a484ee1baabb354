// The kernels of causal attention and its gradients.
import {
  type Attention,
  type AttentionForward,
  type AttentionGradient,
  Buffer,
  type View,
} from '../../../compiler/program.ts'
import { type Call, type Heads, fitTogether, queryTiles } from './common.ts'
import { slopeGradientCall, statisticsCall } from './backward.ts'
import { logSumExpCall } from './log-sum-exp.ts'
import { type SumOf, sumsCall } from './weighted-sums.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from '../kernel.ts'

/**
 * Causal attention and its gradients, never storing the length x length scores (Dao et al., "FlashAttention",
 * 2022).
 *
 * Every kernel recomputes tiles of scores and uses them at once. The forward pass has two kernels: each query's
 * logSumExp, then the sum of exp(score - logSumExp) · value. So nothing is rescaled on the way, no tile waits for a row's
 * maximum, and workgroups can share a wide value by its columns: where keys are narrower than values, scores cost less than
 * the sums that they weigh. The backward pass sums the gradients of queries over keys, and those of keys and values over
 * queries. Each element is written by one workgroup, so that no sum depends on which comes first.
 */
export function attentionDispatches(work: Attention, typeOf: TypeOf, target: Target): Dispatch[] {
  const { batch, heads, length, scale, keyDim, valueDim, operands } = work
  const { query, key, value, slope } = operands
  const given: Heads = { batch, heads, length, scale, query, key, value, keyDim, valueDim, slope }
  return work.kind === 'attention'
    ? forward(given, work.results, typeOf, target)
    : backward(given, work, typeOf, target)
}

function forward(
  given: Heads,
  { out, logSumExp }: AttentionForward['results'],
  typeOf: TypeOf,
  target: Target,
): Dispatch[] {
  const { query, key, value, keyDim, valueDim } = given
  const dispatch = dispatchOf(given, typeOf)
  const sum: SumOf = { weights: 'probability', values: 'value', out, factor: 1 }
  const statistics = { view: logSumExp, isOfBackward: false }
  return [
    dispatch(logSumExpCall(given, logSumExp, typeOf, target), keyDim, [query, key, logSumExp]),
    dispatch(
      sumsCall(given, { rows: 'queries', statistics, sums: [sum] }, typeOf, target),
      keyDim + valueDim,
      [query, key, value, logSumExp, out],
    ),
  ]
}

function backward(
  given: Heads,
  { operands, results }: AttentionGradient,
  typeOf: TypeOf,
  target: Target,
): Dispatch[] {
  const { batch, heads, length, scale, query, key, value, keyDim, valueDim } = given
  const { out, logSumExp, outGradient } = operands
  const { slope: slopeGradient } = results
  const dispatch = dispatchOf(given, typeOf)
  const forStatistics = temporary(batch * heads * length, 2)
  const statistics = { view: forStatistics, isOfBackward: true }
  const tiles = queryTiles(length, target, [keyDim])
  // A single tile's share is all there is.
  const shares = slopeGradient && (tiles > 1 ? temporary(batch * heads, tiles) : slopeGradient)
  const given4 = [query, key, value, outGradient, forStatistics]
  const ofValue: SumOf = { weights: 'probability', values: 'outGradient', out: results.value, factor: 1 }
  const ofKey: SumOf = { weights: 'scoreGradient', values: 'query', out: results.key, factor: scale }
  const ofQuery: SumOf = { weights: 'scoreGradient', values: 'key', out: results.query, factor: scale }
  const overQueries = (...sums: SumOf[]) =>
    sumsCall(given, { rows: 'keys', statistics, outGradient, sums }, typeOf, target)
  const scores = keyDim + valueDim
  return [
    dispatch(
      statisticsCall(given, { out, logSumExp, outGradient, statistics: forStatistics }, typeOf, target),
      0,
      [out, logSumExp, outGradient, forStatistics],
    ),
    ...(fitTogether(length, target, [valueDim, keyDim])
      ? [dispatch(overQueries(ofValue, ofKey), 2 * scores, [...given4, results.key, results.value])]
      : [
          dispatch(overQueries(ofValue), scores, [query, key, outGradient, forStatistics, results.value]),
          dispatch(overQueries(ofKey), scores + keyDim, [...given4, results.key]),
        ]),
    dispatch(
      sumsCall(
        given,
        { rows: 'queries', statistics, outGradient, sums: [ofQuery], slopeGradient: shares },
        typeOf,
        target,
      ),
      scores + keyDim,
      [...given4, results.query, ...(shares ? [shares] : [])],
    ),
    ...(shares && slopeGradient && tiles > 1
      ? [
          dispatch(
            slopeGradientCall(given, { parts: shares, tiles, out: slopeGradient }, typeOf, target),
            0,
            [shares, slopeGradient],
          ),
        ]
      : []),
  ]
}

/** Memory for temporary rows. */
const temporary = (rows: number, columns: number): View => ({
  buffer: new Buffer(rows * columns, 'float32'),
  offset: 0,
  shape: [rows, columns],
  strides: [columns, 1],
})

/** Makes dispatches. depth: columns multiplied for each pair of a query and a key; touched: the views accessed. */
function dispatchOf({ batch, heads, length }: Heads, typeOf: TypeOf) {
  const pairs = (batch * heads * length * (length + 1)) / 2
  return ({ kernel, bindings, workgroups }: Call, depth: number, touched: readonly View[]): Dispatch => ({
    kernel,
    buffers: bindings.buffers,
    writes: bindings.writes,
    workgroups,
    flops: 2 * pairs * depth,
    bytes: touched.reduce(
      (sum, { buffer, shape }) => sum + bytesOf[typeOf(buffer)] * shape.reduce((a, b) => a * b, 1),
      0,
    ),
  })
}
