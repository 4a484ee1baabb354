/** Matrix products over causal blocks: scores, weighted sums of values, and the copies that pack and unpack them. */
import { type MicroKernel, panelFunction, tileFunction } from '../matmul/micro-kernel.ts'
import { add, advance, call, divide, f32x4, func, locals, loop, min, mul, repeat, sub } from '../wat.ts'
import { type BlockSizes, isLong } from './shape.ts'

/** Packs the first `count` rows of `source` for weighFunction, in blocks of kBlock rows. */
export function packKeyBlocks(
  pack: string,
  source: string,
  stride: number,
  to: string,
  width: number,
  { length, kBlock }: BlockSizes,
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
 * `(func $name a b depth scores row rows)`: scores = A·B for `rows` rows of A [rows, depth], the first of which belongs to
 * query number `row`, and for all panels of B [depth, keys] up to the diagonal.
 */
export function causalProduct(name: string, tile: MicroKernel, sizes: BlockSizes, strideA: number): string {
  const { block, lastRows, rowStride } = sizes
  // Tiles whose rows all come before the panel's first key are masked, and skipped.
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
 * `(func $name weights packed out row rows)`: out = weights·values for a block of query rows, each up to its diagonal.
 * weights [block, keys] are stored as causalProduct leaves the scores, and the packed values [keys, width] in k-blocks.
 * out consists of panels [block, tile.columns].
 */
export function weighFunction(name: string, tile: MicroKernel, sizes: BlockSizes, width: number): string {
  const { block, kBlock, rowStride, length } = sizes
  const manyBlocks = kBlock < length
  const addendStride = manyBlocks ? tile.columns : undefined
  const addsLast = isLong(length)
  const shape = {
    rows: tile.rows,
    strideA: rowStride,
    stepA: 1,
    strideC: tile.columns,
    addendStride,
    addsLast,
  }
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
          ${'' /* As deep as the tile's last row needs; the other rows have zeros there. */}
          (local.set $depth ${sub(add('row', 'i', tile.rows), 'k')})
          (if (i32.gt_s (local.get $depth) (i32.const 0)) (then
            (local.set $c ${add('out', mul('column', block * 4), mul('i', tile.columns * 4))})
            ${call(`${name}.tile`, tileOfWeights, 'panel', min('depth', 'panelDepth'), 'c', 'c')}))`}
        ${advance('panel', mul('panelDepth', tile.columns * 4))}`}`})`
}

/**
 * `(func $name weights packed sums width row rows)`: sums += weightsᵀ·values for a block of query rows. The packed
 * values [rows, width] belong to this block; sums consists of panels [all keys, tile.columns].
 */
export function collectFunction(name: string, tile: MicroKernel, sizes: BlockSizes): string {
  const { rowStride, rows: allRows, length } = sizes
  const strideC = tile.columns
  const addsLast = isLong(length)
  const shape = { rows: tile.rows, strideA: 1, stepA: rowStride, strideC, addendStride: strideC, addsLast }
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

/**
 * `(func $name panels to rows factors)` copies panels [panelRows, tile.columns] to rows of `width` floats, multiplied by a
 * constant or by a factor per row.
 */
export function unpackFunction(
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
