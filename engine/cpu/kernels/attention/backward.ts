/** The gradients of causal attention. */
import { expOrZero } from '../exp-log.ts'
import type { Kernel } from '../kernel.ts'
import { type MicroKernel, tileName } from '../matmul/micro-kernel.ts'
import { packFunction, packTransposedFunction } from '../matmul/packing.ts'
import { add, advance, call, f32x4, func, locals, loop, min, mul, multiplyAdd, repeat, sub } from '../wat.ts'
import { acrossPair, addToTotal, both, fillAfter, pairs } from './lanes.ts'
import { causalProduct, collectFunction, packKeyBlocks, unpackFunction, weighFunction } from './products.ts'
import {
  type AttentionGradientStrides,
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
 * The backward pass. Operands: q, k, v, slope (if shape.slope), out, logSumExp, dOut, dq, dk, dv, and dSlope
 * [batch, heads] (if shape.slope), the gradient of the slope from each sequence. One item computes one head of one
 * sequence, going through its query blocks in order. With P the softmax, recomputed from logSumExp, and S the scores:
 * dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP - rowsum(dO∘O)), dQ = scale * dS·K, dK = scale * dSᵀ·Q
 * (Dao et al., "FlashAttention", 2022, appendix B).
 */
export function attentionBackward(
  shape: AttentionShape,
  strides: AttentionGradientStrides,
  tile: MicroKernel,
): Kernel {
  const { batch, heads, length, keyDim, valueDim, scale, slope, rowStride } = shape
  const sizes = blockSizes(shape, tile)
  const { block, keyWidth, valueWidth } = sizes
  const { dOut: strideDOut, dq, dk, dv } = strides
  const name = ['attentionGradient', tileName(tile), shapeName(shape), strideDOut, dq, dk, dv, block].join(
    '_',
  )
  const scratch = new Scratch()
  const keysTransposed = scratch.floats(keyDim * sizes.keys)
  const keys = scratch.floats(length * keyWidth)
  const valuesTransposed = scratch.floats(valueDim * sizes.keys)
  const scores = scratch.floats(block * sizes.rowStride)
  const dScores = scratch.floats(block * sizes.rowStride)
  const qPanels = scratch.floats(block * keyWidth)
  const dOutPanels = scratch.floats(block * valueWidth)
  const dqPanels = scratch.floats(block * keyWidth)
  const dkPanels = scratch.floats(sizes.rows * keyWidth)
  const dvPanels = scratch.floats(sizes.rows * valueWidth)
  const dots = scratch.floats(block)
  const distances = scratch.floats(length + sizes.zeros)
  const lanes = scratch.floats(8)
  const operand = operandsOf([
    ...(['q', 'k', 'v'] as const),
    ...(slope ? (['slope'] as const) : []),
    ...(['out', 'logSumExp', 'dOut', 'dq', 'dk', 'dv'] as const),
    ...(slope ? (['dSlope'] as const) : []),
  ])
  const [q, out, dOut] = [rowOf('q', rowStride.q), rowOf('out', rowStride.out), rowOf('dOut', strides.dOut)]
  const wat = `
  ${packTransposedFunction(`${name}.packKeysTransposed`, tile, rowStride.k)}
  ${packTransposedFunction(`${name}.packValuesTransposed`, tile, rowStride.v)}
  ${packFunction(`${name}.packKeys`, tile, keyDim, rowStride.k)}
  ${packFunction(`${name}.packQ`, tile, keyDim, rowStride.q)}
  ${packFunction(`${name}.packDOut`, tile, valueDim, strides.dOut)}
  ${causalProduct(`${name}.scores`, tile, sizes, rowStride.q)}
  ${causalProduct(`${name}.dScores`, tile, sizes, strides.dOut)}
  ${dotsFunction(`${name}.dots`, tile, valueDim, strides.dOut, rowStride.out)}
  ${scoreGradientFunction(`${name}.gradient`, tile, shape, sizes)}
  ${weighFunction(`${name}.weigh`, tile, sizes, keyWidth)}
  ${collectFunction(`${name}.collect`, tile, sizes)}
  ${slope ? distancesFunction(`${name}.distances`, length + sizes.zeros, length) : ''}
  ${unpackFunction(`${name}.unpackDq`, tile, keyDim, strides.dq, block, scale)}
  ${unpackFunction(`${name}.unpackDk`, tile, keyDim, strides.dk, sizes.rows, scale)}
  ${unpackFunction(`${name}.unpackDv`, tile, valueDim, strides.dv, sizes.rows, 1)}
  (func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    ${locals('i32', 'row rows k q key v out logSumExp dOut dq dk dv')} ${locals('f32', 'slope dSlope')}
    ${headPointer('q', operand('q'), shape, rowStride.q, keyDim)}
    ${headPointer('key', operand('k'), shape, rowStride.k, keyDim)}
    ${headPointer('v', operand('v'), shape, rowStride.v, valueDim)}
    ${headPointer('out', operand('out'), shape, rowStride.out, valueDim)}
    ${headPointer('dOut', operand('dOut'), shape, strides.dOut, valueDim)}
    ${headPointer('dq', operand('dq'), shape, strides.dq, keyDim)}
    ${headPointer('dk', operand('dk'), shape, strides.dk, keyDim)}
    ${headPointer('dv', operand('dv'), shape, strides.dv, valueDim)}
    (local.set $logSumExp ${add(operand('logSumExp'), mul('item', length * 4))})
    ${slope ? loadSlope(name, operand('slope'), heads, distances) : ''}
    ${call(`${name}.packKeysTransposed`, 'key', keysTransposed, length, keyDim)}
    ${call(`${name}.packValuesTransposed`, 'v', valuesTransposed, length, valueDim)}
    ${packKeyBlocks(`${name}.packKeys`, 'key', rowStride.k, keys, keyWidth, sizes, length)}
    (memory.fill ${dkPanels} (i32.const 0) (i32.const ${sizes.rows * keyWidth * 4}))
    (memory.fill ${dvPanels} (i32.const 0) (i32.const ${sizes.rows * valueWidth * 4}))
    ${loop('row', 0, length, block)`
      (local.set $rows ${min(sub(length, 'row'), block)})
      ${call(`${name}.scores`, q, keysTransposed, keyDim, scores, 'row', 'rows')}
      ${call(`${name}.dScores`, dOut, valuesTransposed, valueDim, dScores, 'row', 'rows')}
      ${call(`${name}.dots`, dOut, out, 'rows', dots, lanes)}
      (local.set $dSlope (f32.add (local.get $dSlope) ${call(
        `${name}.gradient`,
        scores,
        dScores,
        'row',
        'rows',
        distances,
        'slope',
        dots,
        'logSumExp',
        lanes,
      )}))
      ${call(`${name}.packDOut`, dOut, dOutPanels, 'rows', 'rows')}
      ${call(`${name}.collect`, scores, dOutPanels, dvPanels, valueWidth, 'row', 'rows')}
      ${call(`${name}.packQ`, q, qPanels, 'rows', 'rows')}
      ${call(`${name}.collect`, dScores, qPanels, dkPanels, keyWidth, 'row', 'rows')}
      ${call(`${name}.weigh`, dScores, keys, dqPanels, 'row', 'rows')}
      ${call(`${name}.unpackDq`, dqPanels, rowOf('dq', strides.dq), 'rows', 0)}`}
    ${call(`${name}.unpackDk`, dkPanels, 'dk', length, 0)}
    ${call(`${name}.unpackDv`, dvPanels, 'dv', length, 0)}
    ${slope ? `(f32.store ${add(operand('dSlope'), mul('item', 4))} (local.get $dSlope))` : ''})`
  return { name, wat, items: batch * heads, scratchBytes: scratch.bytes }
}

/**
 * `(func $name scores dScores row rows distances slope dots logSumExp lanes)` replaces a block's scores q·k by the softmax
 * P, and dScores = dP by dS = P∘(dP - dots), both with zeros after the diagonal. Returns the sum of dS * (j - i), the
 * gradient of the slope.
 */
function scoreGradientFunction(
  name: string,
  { fma }: MicroKernel,
  { scale, slope, length }: AttentionShape,
  { rowStride, zeros }: BlockSizes,
): string {
  const { load, store } = pairs
  const get = (local: string) => `(local.get $${local})`
  const set = (local: string, value: string) => `(local.set $${local} ${value})`
  // Rounds scores as softmaxFunction does, so that none exceeds its logSumExp, however large both are.
  const compute = (half: number) => {
    const [x, p, d, sum] = ['x', 'p', 'd', 'sum'].map(local => `${local}${half}`)
    const scaled = `(f32x4.mul ${get(p)} ${f32x4(scale)})`
    const score = slope ? multiplyAdd(fma, get(d), get('bias'), scaled) : scaled
    return `
        ${set(p, `(f32x4.sub ${score} ${get('shift')})`)}
        ${expOrZero(fma, p, 't', negligible)}
        ${set(x, `(f32x4.mul ${get(p)} (f32x4.sub ${get(x)} ${get('dot')}))`)}
        ${slope ? set(sum, multiplyAdd(fma, get(x), get(d), get(sum))) : ''}`
  }
  return func(
    name,
    `(param $line i32) (param $dLine i32) (param $row i32) (param $rows i32) (param $distance i32)
    (param $slope f32) (param $dots i32) (param $logSumExp i32) (param $lanes i32) (result f32)
    ${locals('i32', 'i keys j')}
    ${locals('v128', 'p0 p1 x0 x1 d0 d1 t sum0 sum1 total0 total1 bias shift dot')}`,
    `
    (local.set $bias (f32x4.splat (local.get $slope)))
    ${advance('distance', mul(sub(length - 1, 'row'), 4))}
    ${advance('logSumExp', mul('row', 4))}
    ${loop('i', 0, 'rows', 1)`
      (local.set $keys ${add('row', 'i', 1)})
      (local.set $shift (v128.load32_splat (local.get $logSumExp)))
      (local.set $dot (v128.load32_splat (local.get $dots)))
      ${fillAfter('line', 8, maskedBefore(scale))}
      ${loop('j', 0, mul('keys', 4), 32)`
        ${load('p', 'line')}
        ${load('x', 'dLine')}
        ${slope ? load('d', 'distance') : ''}
        ${both(compute)}
        ${store('p', 'line')}
        ${store('x', 'dLine')}`}
      ${slope && isLong(length) ? both(half => addToTotal(`sum${half}`, `total${half}`)) : ''}
      ${fillAfter('line', zeros, 0)}
      ${fillAfter('dLine', zeros, 0)}
      ${advance('line', rowStride * 4)}
      ${advance('dLine', rowStride * 4)}
      ${advance('dots', 4)}
      ${advance('logSumExp', 4)}
      ${advance('distance', -4)}`}
    ${slope && isLong(length) ? both(half => `(local.set $sum${half} (local.get $total${half}))`) : ''}
    ${slope ? acrossPair('f32x4.add', 'sum0', 'sum1') : ''}
    (f32x4.extract_lane 0 (local.get $sum0))`,
  )
}

/** `(func $name a b rows dots lanes)`: the dot product of each of `rows` rows of A and B [rows, width]. */
function dotsFunction(
  name: string,
  { fma }: MicroKernel,
  width: number,
  strideA: number,
  strideB: number,
): string {
  const vectors = width - (width % 8)
  const tail = (i: number) => `
      (local.set $tail (f32.add (local.get $tail) (f32.mul
        (f32.load offset=${4 * (vectors + i)} (local.get $a))
        (f32.load offset=${4 * (vectors + i)} (local.get $b)))))`
  const sum = (h: number) => `(local.set $sum${h}
          ${multiplyAdd(fma, `(local.get $a${h})`, `(local.get $b${h})`, `(local.get $sum${h})`)})`
  return func(
    name,
    `(param $a i32) (param $b i32) (param $rows i32) (param $dots i32) (param $lanes i32)
    ${locals('i32', 'i j')} ${locals('v128', 'a0 a1 b0 b1 sum0 sum1')} ${locals('f32', 'tail')}`,
    `
    ${loop('i', 0, 'rows', 1)`
      ${both(h => `(local.set $sum${h} ${f32x4(0)})`)}
      ${loop('j', 0, vectors * 4, 32)`
        ${pairs.load('a', 'a')}
        ${pairs.load('b', 'b')}
        ${both(sum)}`}
      ${acrossPair('f32x4.add', 'sum0', 'sum1')}
      (local.set $tail (f32x4.extract_lane 0 (local.get $sum0)))
      ${repeat(width - vectors, tail)}
      (f32.store (local.get $dots) (local.get $tail))
      ${advance('a', strideA * 4)}
      ${advance('b', strideB * 4)}
      ${advance('dots', 4)}`}`,
  )
}
