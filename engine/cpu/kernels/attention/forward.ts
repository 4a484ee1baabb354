/**
 * Causal attention, out_i = sum over j <= i of softmax_j(scale * q_i·k_j + slope * (j - i)) * v_j.
 *
 * The T x T scores are never stored. One item computes one head of one sequence: it packs the keys and values, and goes
 * through blocks of query rows, whose scores with all keys so far fit in the L2 cache. So each row's softmax is computed
 * at once, with nothing to correct later. Panels past the diagonal are skipped.
 */
import { expOrZero, log } from '../exp-log.ts'
import type { Kernel } from '../kernel.ts'
import { type MicroKernel, longestSum, tileName } from '../matmul/micro-kernel.ts'
import { packFunction, packTransposedFunction } from '../matmul/packing.ts'
import {
  add,
  advance,
  call,
  divide,
  f32x4,
  func,
  locals,
  loop,
  min,
  mul,
  multiplyAdd,
  remainder,
  sub,
} from '../wat.ts'
import { acrossPair, addToTotal, both, fillAfter, pairs } from './lanes.ts'
import { causalProduct, packKeyBlocks, unpackFunction, weighFunction } from './products.ts'
import {
  type AttentionShape,
  type BlockSizes,
  Scratch,
  distancesFunction,
  headPointer,
  isLong,
  blockSizes,
  loadSlope,
  maskedBefore,
  negligible,
  operandsOf,
  rowOf,
  shapeName,
} from './shape.ts'

/**
 * The forward pass. Operands: q, k, v, slope [heads] (if shape.slope), out, logSumExp [batch, heads, length]. The last is
 * the logarithm of each row's sum of exponentials of scores, which attentionBackward needs.
 * Item (batch * heads + head) * groups + group computes each query block b with b % groups = group, so that there are
 * enough items if there are more threads than heads. Every group packs the keys and values again.
 */
export function attentionForward(shape: AttentionShape, tile: MicroKernel, groups = 1): Kernel {
  const { batch, heads, length, keyDim, valueDim, slope, rowStride } = shape
  const sizes = blockSizes(shape, tile)
  const { block, blocks, valueWidth } = sizes
  const parts = Math.min(groups, blocks)
  const name = ['attention', tileName(tile), shapeName(shape), block, parts].join('_')
  const scratch = new Scratch()
  const keys = scratch.floats(keyDim * sizes.keys)
  const values = scratch.floats(length * valueWidth)
  const scores = scratch.floats(block * sizes.rowStride)
  const outPanels = scratch.floats(block * valueWidth)
  const factors = scratch.floats(block)
  const distances = scratch.floats(length + sizes.zeros)
  const lanes = scratch.floats(8)
  const operand = operandsOf(['q', 'k', 'v', ...(slope ? (['slope'] as const) : []), 'out', 'logSumExp'])
  // The group needs the keys up to the end of its last block.
  const lastBlock = add('group', mul(divide(sub(blocks - 1, 'group'), parts), parts))
  const wat = `
  ${packTransposedFunction(`${name}.packKeys`, tile, rowStride.k)}
  ${packFunction(`${name}.packValues`, tile, valueDim, rowStride.v)}
  ${causalProduct(`${name}.scores`, tile, sizes, rowStride.q)}
  ${weighFunction(`${name}.weigh`, tile, sizes, valueWidth)}
  ${softmaxFunction(`${name}.softmax`, tile, shape, sizes)}
  ${slope ? distancesFunction(`${name}.distances`, length + sizes.zeros, length) : ''}
  ${unpackFunction(`${name}.unpack`, tile, valueDim, rowStride.out, block, 'rows')}
  (func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    ${locals('i32', 'group row rows last k q key v out logSumExp')} ${locals('f32', 'slope')}
    (local.set $group ${remainder('item', parts)})
    (local.set $item ${divide('item', parts)})
    ${headPointer('q', operand('q'), shape, rowStride.q, keyDim)}
    ${headPointer('key', operand('k'), shape, rowStride.k, keyDim)}
    ${headPointer('v', operand('v'), shape, rowStride.v, valueDim)}
    ${headPointer('out', operand('out'), shape, rowStride.out, valueDim)}
    (local.set $logSumExp ${add(operand('logSumExp'), mul('item', length * 4))})
    ${slope ? loadSlope(name, operand('slope'), heads, distances) : ''}
    (local.set $last ${add(mul(lastBlock, block), block)})
    (local.set $last ${min('last', length)})
    ${call(`${name}.packKeys`, 'key', keys, 'last', keyDim)}
    ${packKeyBlocks(`${name}.packValues`, 'v', rowStride.v, values, valueWidth, sizes, 'last')}
    ${loop('row', mul('group', block), length, block * parts)`
      (local.set $rows ${min(sub(length, 'row'), block)})
      ${call(`${name}.scores`, rowOf('q', rowStride.q), keys, keyDim, scores, 'row', 'rows')}
      ${call(`${name}.softmax`, scores, 'row', 'rows', distances, 'slope', factors, 'logSumExp', lanes)}
      ${call(`${name}.weigh`, scores, values, outPanels, 'row', 'rows')}
      ${call(`${name}.unpack`, outPanels, rowOf('out', rowStride.out), 'rows', factors)}`})`
  return { name, wat, items: batch * heads * parts, scratchBytes: scratch.bytes }
}

/**
 * `(func $name scores row rows distances slope factors logSumExp lanes)` replaces a block's scores q·k by
 * exp(scale * score + bias - maximum), with zeros after the diagonal. factors receives 1 / sum for each row.
 */
function softmaxFunction(
  name: string,
  tile: MicroKernel,
  { scale, slope, length }: AttentionShape,
  { rowStride, zeros }: BlockSizes,
): string {
  const { load, store } = pairs
  const scaled = (half: number) => `(f32x4.mul (local.get $x${half}) ${f32x4(scale)})`
  const biased = (half: number) =>
    multiplyAdd(tile.fma, `(local.get $d${half})`, '(local.get $bias)', scaled(half))
  const exponentials = (from: string | number, to: string) => loop('j', from, to, 32)`
        ${load('x', 'line')}
        ${both(
          half => `(local.set $x${half} (f32x4.sub (local.get $x${half}) (local.get $max0)))
          ${expOrZero(tile.fma, `x${half}`, 't', negligible)}`,
        )}
        ${both(half => `(local.set $sum${half} (f32x4.add (local.get $sum${half}) (local.get $x${half})))`)}
        ${store('x', 'line')}`
  return func(
    name,
    `(param $line i32) (param $row i32) (param $rows i32) (param $distance i32) (param $slope f32)
    (param $factors i32) (param $logSumExp i32) (param $lanes i32)
    ${locals('i32', 'i keys j start')}
    ${locals('v128', 'x0 x1 d0 d1 t max0 max1 sum0 sum1 total0 total1 bias')}`,
    `
    (local.set $bias (f32x4.splat (local.get $slope)))
    ${advance('distance', mul(sub(length - 1, 'row'), 4))}
    ${advance('logSumExp', mul('row', 4))}
    ${loop('i', 0, 'rows', 1)`
      (local.set $keys ${add('row', 'i', 1)})
      ${fillAfter('line', 8, maskedBefore(scale))}
      ${both(half => `(local.set $max${half} ${f32x4(-Infinity)})`)}
      ${loop('j', 0, mul('keys', 4), 32)`
        ${load('x', 'line')}
        ${slope ? load('d', 'distance') : ''}
        ${both(half => `(local.set $x${half} ${slope ? biased(half) : scaled(half)})`)}
        ${both(half => `(local.set $max${half} (f32x4.pmax (local.get $max${half}) (local.get $x${half})))`)}
        ${store('x', 'line')}`}
      ${acrossPair('f32x4.pmax', 'max0', 'max1')}
      ${both(half => `(local.set $sum${half} ${f32x4(0)})`)}
      ${
        isLong(length)
          ? `${both(half => `(local.set $total${half} ${f32x4(0)})`)}
      ${loop('start', 0, mul('keys', 4), longestSum * 4)`
        ${exponentials('start', min(mul('keys', 4), add('start', longestSum * 4)))}
        ${both(half => addToTotal(`sum${half}`, `total${half}`))}`}
      ${both(half => `(local.set $sum${half} (local.get $total${half}))`)}`
          : exponentials(0, mul('keys', 4))
      }
      ${acrossPair('f32x4.add', 'sum0', 'sum1')}
      ${fillAfter('line', zeros, 0)}
      (f32.store (local.get $factors) (f32.div (f32.const 1) (f32x4.extract_lane 0 (local.get $sum0))))
      ${log(tile.fma, 'sum0', 't', 'x0')}
      (f32.store (local.get $logSumExp)
        (f32x4.extract_lane 0 (f32x4.add (local.get $max0) (local.get $sum0))))
      ${advance('line', rowStride * 4)}
      ${advance('factors', 4)}
      ${advance('logSumExp', 4)}
      ${advance('distance', -4)}`}`,
  )
}
