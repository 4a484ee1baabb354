import type { Kernel } from './kernel.ts'
import {
  type MicroKernel,
  deepestBlock,
  longDepth,
  packFunction,
  packTransposedFunction,
  panelFunction,
  roundUp,
  tileFunction,
  tileName,
} from './matmul.ts'
import {
  add,
  advance,
  call,
  divide,
  expOrZero,
  f32x4,
  func,
  locals,
  log,
  loop,
  min,
  mul,
  multiplyAdd,
  remainder,
  repeat,
  sub,
} from './wat.ts'

/**
 * Causal attention, out_i = sum over j <= i of softmax_j(scale * q_i·k_j + slope * (j - i)) * v_j.
 *
 * The T x T scores are never stored: one item takes one head of one sequence, packs its keys and values,
 * and goes through blocks of query rows, whose scores with all keys so far fit in the L2 cache. So a row's
 * softmax is exact, with nothing to correct later. Panels past the diagonal are skipped.
 */

/** One attention; strides are in floats, and every operand is a view of a row-major [batch * length, .]. */
export interface AttentionShape {
  readonly batch: number
  readonly heads: number
  readonly length: number
  /** Columns of q and k for one head; head h begins at column h * keyDim. */
  readonly keyDim: number
  /** Columns of v and out for one head; head h begins at column h * valueDim. */
  readonly valueDim: number
  /** Not zero. */
  readonly scale: number
  /** Whether there is a position bias: one slope a head. */
  readonly slope: boolean
  readonly rowStride: { readonly q: number; readonly k: number; readonly v: number; readonly out: number }
}

/** A score that becomes -Infinity when it is multiplied by the scale, which is not zero. */
const maskedBefore = (scale: number): number => (scale > 0 ? -Infinity : Infinity)

/** Sums over more keys or queries have a sum of their own for each block, lest they lose digits. */
const isLong = (length: number): boolean => length > longDepth

/** Weights below 2^-64 count as nothing, or their products would be denormal numbers, which are slow. */
const negligible = -64

/** What follows from the shape: block sizes, and the paddings that let whole tiles be computed. */
function layout({ length, keyDim, valueDim }: AttentionShape, tile: MicroKernel) {
  const balanced = (most: number, multiple: number) =>
    roundUp(Math.ceil(length / Math.ceil(length / most)), multiple)
  /** Query rows done together. */
  const block = balanced(maxBlock, tile.rows)
  /** Keys whose values are summed in one go; of many, fewer, which keeps more digits. */
  const kBlock = Math.min(length, balanced(isLong(length) ? deepestBlock / 2 : deepestBlock, 4))
  /** The zeros after a row's last score: up to where its tile, or its last 8 lanes, may reach. */
  const zeros = Math.max(8, roundUp(tile.rows, 4))
  /** From a row of scores to the next: no multiple of 256 bytes, lest rows contend for a cache set. */
  const width = roundUp(Math.max(roundUp(length, tile.columns), length + zeros), 8)
  const rowStride = width % 64 === 0 ? width + 16 : width
  return {
    block,
    lastRows: length - (Math.ceil(length / block) - 1) * block,
    blocks: Math.ceil(length / block),
    kBlock,
    zeros,
    rowStride,
    length,
    keys: roundUp(length, tile.columns),
    rows: roundUp(length, tile.rows),
    keyWidth: roundUp(keyDim, tile.columns),
    valueWidth: roundUp(valueDim, tile.columns),
  }
}

/** At most so many query rows together, for their scores to stay in the L2 cache. */
const maxBlock = 48

type Layout = ReturnType<typeof layout>

/** Gives out scratch memory: addresses as i32 expressions, each a multiple of 64. */
class Scratch {
  bytes = 0

  floats(count: number): string {
    const address = add('scratch', this.bytes)
    this.bytes += roundUp(count * 4, 64)
    return address
  }
}

function shapeName({
  batch,
  heads,
  length,
  keyDim,
  valueDim,
  scale,
  slope,
  rowStride,
}: AttentionShape): string {
  const { q, k, v, out } = rowStride
  const bias = slope ? 'slope' : 'plain'
  return [batch, heads, length, keyDim, valueDim, scale, bias, q, k, v, out].join('_')
}

/**
 * The forward pass. Operands: q, k, v, slope [heads] (if shape.slope), out, logSumExp [batch, heads, length],
 * the logarithm of each row's sum of exponentials of scores, which attentionBackward wants.
 * Item (batch * heads + head) * groups + group does each query block b with b % groups = group, so that more
 * threads than heads find work; every group packs the keys and values anew.
 */
export function attentionForward(shape: AttentionShape, tile: MicroKernel, groups = 1): Kernel {
  const { batch, heads, length, keyDim, valueDim, slope, rowStride } = shape
  const sizes = layout(shape, tile)
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
  const firstOut = slope ? 4 : 3
  // The row after the group's last block: how many keys it needs.
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
    ${headPointer('q', 0, shape, rowStride.q, keyDim)}
    ${headPointer('key', 1, shape, rowStride.k, keyDim)}
    ${headPointer('v', 2, shape, rowStride.v, valueDim)}
    ${headPointer('out', firstOut, shape, rowStride.out, valueDim)}
    (local.set $logSumExp ${add(argument(firstOut + 1), mul('item', length * 4))})
    ${slope ? loadSlope(name, heads, distances) : ''}
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

/** Strides of the gradients, as in AttentionShape. */
export interface AttentionGradientStrides {
  readonly dOut: number
  readonly dq: number
  readonly dk: number
  readonly dv: number
}

/**
 * The backward pass. Operands: q, k, v, slope (if shape.slope), out, logSumExp, dOut, dq, dk, dv, and dSlope
 * [batch, heads] (if shape.slope: each sequence's own share). Each item is one head of one sequence, which
 * goes through its query blocks in order. With P the softmax, recomputed from logSumExp, and S the scores:
 * dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP - rowsum(dO∘O)), dQ = scale * dS·K, dK = scale * dSᵀ·Q
 * (Dao et al., "FlashAttention", 2022, appendix B).
 */
export function attentionBackward(
  shape: AttentionShape,
  strides: AttentionGradientStrides,
  tile: MicroKernel,
): Kernel {
  const { batch, heads, length, keyDim, valueDim, scale, slope, rowStride } = shape
  const sizes = layout(shape, tile)
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
  const firstOut = slope ? 4 : 3
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
    ${headPointer('q', 0, shape, rowStride.q, keyDim)}
    ${headPointer('key', 1, shape, rowStride.k, keyDim)}
    ${headPointer('v', 2, shape, rowStride.v, valueDim)}
    ${headPointer('out', firstOut, shape, rowStride.out, valueDim)}
    ${headPointer('dOut', firstOut + 2, shape, strides.dOut, valueDim)}
    ${headPointer('dq', firstOut + 3, shape, strides.dq, keyDim)}
    ${headPointer('dk', firstOut + 4, shape, strides.dk, keyDim)}
    ${headPointer('dv', firstOut + 5, shape, strides.dv, valueDim)}
    (local.set $logSumExp ${add(argument(firstOut + 1), mul('item', length * 4))})
    ${slope ? loadSlope(name, heads, distances) : ''}
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
    ${slope ? `(f32.store ${add(argument(firstOut + 6), mul('item', 4))} (local.get $dSlope))` : ''})`
  return { name, wat, items: batch * heads, scratchBytes: scratch.bytes }
}

/** The address of the kernel's operand with this index. */
function argument(index: number): string {
  return `(i32.load offset=${index * 4} (local.get $arguments))`
}

/** The address of row $row of an operand. */
function rowOf(operand: string, stride: number): string {
  return add(operand, mul('row', stride * 4))
}

/** Points a local at the first row of an operand that belongs to $item, which is batch * heads + head. */
function headPointer(
  local: string,
  index: number,
  { heads, length }: AttentionShape,
  stride: number,
  width: number,
): string {
  const sequence = mul(divide('item', heads), length * stride * 4)
  return `(local.set $${local} ${add(argument(index), sequence, mul(remainder('item', heads), width * 4))})`
}

/** Reads the head's slope, operand 3, and writes the table of distances that goes with it. */
function loadSlope(name: string, heads: number, distances: string): string {
  return `
    (local.set $slope (f32.load ${add(argument(3), mul(remainder('item', heads), 4))}))
    ${call(`${name}.distances`, distances)}`
}

/** Packs the first `count` rows of `source` for weighFunction, in blocks of kBlock rows. */
function packKeyBlocks(
  pack: string,
  source: string,
  stride: number,
  to: string,
  width: number,
  { length, kBlock }: Layout,
  count: string | number,
): string {
  return loop('k', 0, count, kBlock)`
      ${call(
        pack,
        add(source, mul('k', stride * 4)),
        add(to, mul('k', width * 4)),
        min(sub(count, 'k'), kBlock),
        min(sub(length, 'k'), kBlock),
      )}`
}

/**
 * `(func $name table)` writes the distances j - i from a query to its keys: of all i, since entry
 * length - 1 + j - i serves them.
 */
function distancesFunction(name: string, count: number, length: number): string {
  return `
  (func $${name} (param $table i32) ${locals('i32', 'i')}
    ${loop('i', 0, count, 1)`
      (f32.store ${add('table', mul('i', 4))}
        (f32.convert_i32_s ${sub('i', length - 1)}))`})`
}

/**
 * `(func $name a b depth scores row rows)`: scores = A·B for `rows` rows of A [rows, depth], the first of
 * which is query number `row`, and all panels of B [depth, keys] up to the diagonal.
 */
function causalProduct(name: string, tile: MicroKernel, sizes: Layout, strideA: number): string {
  const { block, lastRows, rowStride } = sizes
  // Whole tiles of rows that come before the panel's first key see nothing of it, and are skipped.
  const a = add('a', mul('skip', strideA * 4))
  const c = add('scores', mul('skip', rowStride * 4), mul('column', 4))
  return `
  ${panelFunction(`${name}.panel`, tile, { rowCounts: [block, lastRows], strideA, strideC: rowStride })}
  (func $${name} (param $a i32) (param $b i32) (param $depth i32) (param $scores i32) (param $row i32)
    (param $rows i32)
    ${locals('i32', 'column skip')}
    ${loop('column', 0, add('row', 'rows'), tile.columns)`
      (local.set $skip (i32.const 0))
      (if (i32.gt_u (local.get $column) (local.get $row)) (then
        (local.set $skip ${mul(divide(sub('column', 'row'), tile.rows), tile.rows)})))
      ${call(`${name}.panel`, a, 'b', 'depth', 0, c, sub('rows', 'skip'))}
      ${advance('b', mul('depth', tile.columns * 4))}`})`
}

/**
 * `(func $name weights packed out row rows)`: out = weights·values for a block of query rows, each up to
 * its diagonal. weights [block, keys] lie as causalProduct leaves the scores, the packed values [keys,
 * width] in k-blocks; out is made as panels [block, tile.columns].
 */
function weighFunction(name: string, tile: MicroKernel, sizes: Layout, width: number): string {
  const { block, kBlock, rowStride, length } = sizes
  const manyBlocks = kBlock < length
  const strideFrom = manyBlocks ? tile.columns : undefined
  const addsFrom = isLong(length)
  const shape = { rows: tile.rows, strideA: rowStride, stepA: 1, strideC: tile.columns, strideFrom, addsFrom }
  const tileOfWeights = add('weights', mul('i', rowStride * 4), mul('k', 4))
  return `
  ${tileFunction(`${name}.tile`, tile, shape)}
  (func $${name} (param $weights i32) (param $packed i32) (param $out i32) (param $row i32) (param $rows i32)
    ${locals('i32', 'k panelDepth panel column i depth c')}
    ${manyBlocks ? `(memory.fill (local.get $out) (i32.const 0) (i32.const ${block * width * 4}))` : ''}
    ${loop('k', 0, add('row', 'rows'), kBlock)`
      (local.set $panelDepth ${min(sub(length, 'k'), kBlock)})
      (local.set $panel ${add('packed', mul('k', width * 4))})
      ${loop('column', 0, width, tile.columns)`
        ${loop('i', 0, 'rows', tile.rows)`
          ${'' /* As deep as the tile's last row sees; the others have zeros there. */}
          (local.set $depth ${sub(add('row', 'i', tile.rows), 'k')})
          (if (i32.gt_s (local.get $depth) (i32.const 0)) (then
            (local.set $c ${add('out', mul('column', block * 4), mul('i', tile.columns * 4))})
            ${call(`${name}.tile`, tileOfWeights, 'panel', min('depth', 'panelDepth'), 'c', 'c')}))`}
        ${advance('panel', mul('panelDepth', tile.columns * 4))}`}`})`
}

/**
 * `(func $name weights packed sums width row rows)`: sums += weightsᵀ·values for a block of query rows.
 * The packed values [rows, width] are the block's own; sums are panels [all keys, tile.columns].
 */
function collectFunction(name: string, tile: MicroKernel, sizes: Layout): string {
  const { rowStride, rows: allRows, length } = sizes
  const strideC = tile.columns
  const addsFrom = isLong(length)
  const shape = { rows: tile.rows, strideA: 1, stepA: rowStride, strideC, strideFrom: strideC, addsFrom }
  // Rows that come before the tile's first key have no weight for it, and are skipped.
  const tileOfWeights = add('weights', mul('skip', rowStride * 4), mul('key', 4))
  const rowsOfValues = add('packed', mul('skip', tile.columns * 4))
  return `
  ${tileFunction(`${name}.tile`, tile, shape)}
  (func $${name} (param $weights i32) (param $packed i32) (param $sums i32) (param $width i32)
    (param $row i32) (param $rows i32)
    ${locals('i32', 'column key skip c')}
    ${loop('column', 0, 'width', tile.columns)`
      ${loop('key', 0, add('row', 'rows'), tile.rows)`
        (local.set $skip (select ${sub('key', 'row')} (i32.const 0)
          (i32.gt_u (local.get $key) (local.get $row))))
        (local.set $c ${add('sums', mul('key', tile.columns * 4))})
        ${call(`${name}.tile`, tileOfWeights, rowsOfValues, sub('rows', 'skip'), 'c', 'c')}`}
      ${advance('packed', mul('rows', tile.columns * 4))}
      ${advance('sums', allRows * tile.columns * 4)}`})`
}

/** Stores `value` in the `count` floats (a multiple of 4) after the row's $keys scores at $line. */
function fillAfter(line: string, count: number, value: number): string {
  return repeat(
    count / 4,
    v => `(v128.store offset=${16 * v} align=4 ${add(line, mul('keys', 4))} ${f32x4(value)})`,
  )
}

/** Sums, or combines, the lanes of a v128 local, through the local itself. */
function acrossLanes(operation: 'f32x4.add' | 'f32x4.pmax', local: string): string {
  const x = `(local.get $${local})`
  const shuffled = (lanes: string) => `(i8x16.shuffle ${lanes} ${x} ${x})`
  return `
      (local.set $${local} (${operation} ${x} ${shuffled('8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7')}))
      (local.set $${local} (${operation} ${x} ${shuffled('4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11')}))`
}

/**
 * Combines two v128 accumulators across all their lanes, into the first. They go by way of memory at $lanes,
 * for V8 to have a pair of stores to begin with when it looks for operations to join.
 */
function acrossPair(operation: 'f32x4.add' | 'f32x4.pmax', first: string, second: string): string {
  return `
      (v128.store (local.get $lanes) (local.get $${first}))
      (v128.store offset=16 (local.get $lanes) (local.get $${second}))
      (local.set $${first} (${operation}
        (v128.load (local.get $lanes)) (v128.load offset=16 (local.get $lanes))))
      ${acrossLanes(operation, first)}`
}

/** Adds a sum to a total, and starts it again from zero. */
const passOn = (sum: string, total: string): string => `
        (local.set $${total} (f32x4.add (local.get $${total}) (local.get $${sum})))
        (local.set $${sum} ${f32x4(0)})`

/** A text for both halves of 8 lanes: V8 joins what the two have in common. */
function both(text: (half: number) => string): string {
  return repeat(2, text)
}

/** Loads and stores of the pairs of v128 locals x0 and x1 at an address plus $j. */
const pairs = {
  load: (local: string, address: string) =>
    both(h => `(local.set $${local}${h} (v128.load offset=${16 * h} align=4 ${add(address, 'j')}))`),
  store: (local: string, address: string) =>
    both(h => `(v128.store offset=${16 * h} align=4 ${add(address, 'j')} (local.get $${local}${h}))`),
}

/**
 * `(func $name scores row rows distances slope factors logSumExp lanes)` replaces a block's scores q·k by
 * exp(scale * score + bias - maximum), zeros after the diagonal; factors get 1 / sum for each row.
 */
function softmaxFunction(
  name: string,
  tile: MicroKernel,
  { scale, slope, length }: AttentionShape,
  { rowStride, zeros }: Layout,
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
      ${loop('start', 0, mul('keys', 4), longDepth * 4)`
        ${exponentials('start', min(mul('keys', 4), add('start', longDepth * 4)))}
        ${both(half => passOn(`sum${half}`, `total${half}`))}`}
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

/**
 * `(func $name scores dScores row rows distances slope dots logSumExp lanes)` replaces a block's scores q·k
 * by the softmax P, and dScores = dP by dS = P∘(dP - dots), both with zeros after the diagonal. Returns the
 * sum of dS * (j - i), the slope's gradient.
 */
function scoreGradientFunction(
  name: string,
  { fma }: MicroKernel,
  { scale, slope, length }: AttentionShape,
  { rowStride, zeros }: Layout,
): string {
  const { load, store } = pairs
  const get = (local: string) => `(local.get $${local})`
  const set = (local: string, value: string) => `(local.set $${local} ${value})`
  // Scores are rounded as softmaxFunction rounds them: none is above its logSumExp then, however large both are.
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
      ${slope && isLong(length) ? both(half => passOn(`sum${half}`, `total${half}`)) : ''}
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

/**
 * `(func $name panels to rows factors)` copies panels [panelRows, tile.columns] to rows of `width` floats,
 * times a constant, or times each row's own of the factors.
 */
function unpackFunction(
  name: string,
  tile: MicroKernel,
  width: number,
  strideTo: number,
  panelRows: number,
  factor: number | 'rows',
): string {
  const edge = width % tile.columns
  const vectors = tile.columns / 4
  const load = (v: number) => `(local.set $x${v}
          (f32x4.mul (v128.load offset=${16 * v} (local.get $from)) (local.get $factor)))`
  const store = (v: number) => `(v128.store offset=${16 * v} align=4 ${add('to', 'j')} (local.get $x${v}))`
  const element = (i: number) => `(f32.store offset=${4 * i} ${add('to', 'j')}
        (f32.mul (f32.load offset=${4 * i} (local.get $from)) (f32x4.extract_lane 0 (local.get $factor))))`
  return func(
    name,
    `(param $panels i32) (param $to i32) (param $rows i32) (param $factors i32)
    ${locals('i32', 'i j from')} ${locals('v128', `factor ${repeat(vectors, v => `x${v}`)}`)}`,
    `
    ${loop('i', 0, 'rows', 1)`
      (local.set $factor ${factor === 'rows' ? '(v128.load32_splat (local.get $factors))' : f32x4(factor)})
      (local.set $from (local.get $panels))
      ${loop('j', 0, (width - edge) * 4, tile.columns * 4)`
        ${repeat(vectors, load)}
        ${repeat(vectors, store)}
        ${advance('from', panelRows * tile.columns * 4)}`}
      ${repeat(edge, element)}
      ${advance('panels', tile.columns * 4)}
      ${advance('to', strideTo * 4)}
      ${factor === 'rows' ? advance('factors', 4) : ''}`}`,
  )
}
