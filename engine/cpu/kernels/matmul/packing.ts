/**
 * Packing of a product's operands: panels of B and groups of rows of A, each contiguous and in the order in which the
 * micro-kernel reads it.
 */
import type { Kernel } from '../kernel.ts'
import {
  add,
  advance,
  and,
  call,
  divide,
  locals,
  loop,
  min,
  mul,
  prefetchFunction,
  remainder,
  repeat,
  shuffle,
  sub,
} from '../wat.ts'
import { type MicroKernel, packedGap, roundUp, tileName } from './micro-kernel.ts'

/** How many floats B [k, n] takes once it is packed. */
export function packedFloats(k: number, n: number, tile: MicroKernel): number {
  return k * roundUp(n, tile.columns)
}

/** The matrix that packKernel packs: B [k, n], row-major, or stored [n, k] when transposed. */
export interface PackShape {
  readonly k: number
  readonly n: number
  /** Distance between stored rows, in floats. */
  readonly rowStride: number
  readonly transposed: boolean
  /** Number of matrices, and their distance in the source. Packed, they are packedFloats apart. */
  readonly batch?: { readonly count: number; readonly stride: number }
}

/**
 * Packs B for matmulKernel. For each block of kBlock rows and each panel of tile.columns columns, it writes the panel's
 * [rows in block, tile.columns] elements, with zeros where the panel reaches past column n.
 * Operands: source, destination.
 * An item packs `block` stored rows of the source. They are rows of B (`block` divides kBlock, so that packing can follow
 * the kernel that makes these rows while they are in cache), or columns of B when transposed (`block` is a multiple of
 * tile.columns). Item batch * blocks + i packs rows i * block up to (i + 1) * block.
 */
export function packKernel(shape: PackShape, kBlock: number, block: number, tile: MicroKernel): Kernel {
  const { k, n, rowStride, transposed } = shape
  const batch = shape.batch ?? { count: 1, stride: 0 }
  const depth = Math.min(kBlock, k)
  if (transposed ? block % tile.columns !== 0 : depth < k && depth % block !== 0) {
    throw new Error(`A block of ${block} rows fits neither k-blocks of ${depth} nor ${tile.columns} columns`)
  }
  const name = [
    'pack',
    tileName(tile),
    transposed ? 't' : 'n',
    `${k}x${n}`,
    rowStride,
    ...(shape.batch ? ['b', batch.count, batch.stride] : []),
    depth,
    block,
  ].join('_')
  const blocks = Math.ceil((transposed ? n : k) / block)
  const rowBytes = roundUp(n, tile.columns) * 4
  const remaining = (local: string, count: number, most: number) =>
    min(`(i32.sub (i32.const ${count}) (local.get $${local}))`, most)
  // $start is the item's first row of B. Its offset within its k-block is its offset within the panels.
  const packRowsOfB = `
    (local.set $k ${mul(`(i32.div_u (local.get $start) (i32.const ${depth}))`, depth)})
    (call $${name}.pack
      ${add('source', mul('start', rowStride * 4))}
      ${add('to', mul('k', rowBytes), mul('(i32.sub (local.get $start) (local.get $k))', tile.columns * 4))}
      ${remaining('start', k, block)}
      ${remaining('k', k, depth)})`
  // $start is the item's first column of B.
  const packColumnsOfB = `
    ${loop('k', 0, k, depth)`
      (local.set $depth ${remaining('k', k, depth)})
      (call $${name}.pack
        ${add('source', mul('start', rowStride * 4), mul('k', 4))}
        ${add('to', mul('k', rowBytes), mul(mul('start', 4), 'depth'))}
        ${remaining('start', n, block)}
        (local.get $depth))`}`
  const wat = `
  ${
    transposed
      ? packTransposedFunction(`${name}.pack`, tile, rowStride)
      : packFunction(`${name}.pack`, tile, n, rowStride)
  }
  (func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    ${locals('i32', 'source to start k depth')}
    (local.set $start ${mul(`(i32.rem_u (local.get $item) (i32.const ${blocks}))`, block)})
    (local.set $item (i32.div_u (local.get $item) (i32.const ${blocks})))
    (local.set $source ${add('(i32.load (local.get $arguments))', mul('item', batch.stride * 4))})
    (local.set $to ${add(
      '(i32.load offset=4 (local.get $arguments))',
      mul('item', packedFloats(k, n, tile) * 4),
    )})
    ${transposed ? packColumnsOfB : packRowsOfB})`
  return { name, wat, items: batch.count * blocks, scratchBytes: 0 }
}

/**
 * WAT of `(func $name (param $source i32) (param $packed i32) (param $rows i32) (param $depth i32))`, which distributes
 * `rows` rows of B [., n] over panels of tile.columns columns and `depth` rows. `packed` points at the first of these
 * rows in the first panel. Zeros fill the remaining columns of the last panel. Panels are `gap` floats apart.
 */
export function packFunction(name: string, tile: MicroKernel, n: number, rowStride: number, gap = 0): string {
  const edge = n % tile.columns
  const fill = repeat(
    tile.columns - edge,
    i => `(f32.store offset=${4 * (edge + i)} (local.get $to) (f32.const 0))`,
  )
  const ahead = rowsAhead(4 * n)
  // Packs $count rows of a panel.
  const packPanel = (width: number) => `
        (local.set $from ${add('source', mul('column', 4))})
        (local.set $to ${add('packed', mul('column', mul('depth', 4)), mul(divide('column', tile.columns), gap * 4))})
        ${loop('i', 0, 'count', 1)`
          ${move(width)}
          ${width < tile.columns ? fill : ''}
          ${advance('from', rowStride * 4)}
          ${advance('to', tile.columns * 4)}`}`
  return `
  ${prefetchFunction(`${name}.prefetch`)}
  (func $${name} (param $source i32) (param $packed i32) (param $rows i32) (param $depth i32)
    ${locals('i32', 'row count column i from to')}
    ${loop('row', 0, 'rows', ahead)`
      (local.set $count ${min(sub('rows', 'row'), ahead)})
      ${call(`${name}.prefetch`, 'source', 'count', rowStride * 4, n * 4)}
      ${loop('column', 0, n - edge, tile.columns)`${packPanel(tile.columns)}`}
      ${edge > 0 ? packPanel(edge) : ''}
      ${advance('source', ahead * rowStride * 4)}
      ${advance('packed', ahead * tile.columns * 4)}`})`
}

/**
 * WAT of `(func $name (param $source i32) (param $packed i32) (param $columns i32) (param $depth i32))`, which packs
 * `columns` columns of B, stored [columns, depth], into panels. Zeros fill the last one. Panels are `gap` floats apart.
 */
export function packTransposedFunction(name: string, tile: MicroKernel, rowStride: number, gap = 0): string {
  const panelRow = tile.columns * 4
  // Transposes 4 x 4 blocks in registers.
  const blocks = repeat(tile.columns / 4, v =>
    transpose4(
      i => `(v128.load offset=${(4 * v + i) * rowStride * 4} align=4 (local.get $from))`,
      (i, row) => `(v128.store offset=${i * panelRow + 16 * v} align=4 (local.get $packed) ${row})`,
    ),
  )
  return `
  (func $${name} (param $source i32) (param $packed i32) (param $columns i32) (param $depth i32)
    ${locals('i32', 'column k i from')} ${repeat(4, i => locals('v128', `r${i} s${i}`))}
    ${loop('column', 0, 'columns', tile.columns)`
      (local.set $from (local.get $source))
      (local.set $k (i32.const 0))
      (if (i32.le_u ${add('column', tile.columns)} (local.get $columns)) (then
        ${loop('k', 0, and('depth', -4), 4)`
          ${blocks}
          ${advance('from', 16)}
          ${advance('packed', 4 * panelRow)}`}))
      ${loop('k', 'k', 'depth', 1)`
        ${loop('i', 0, tile.columns, 1)`
          (f32.store ${add('packed', mul('i', 4))}
            (if (result f32) (i32.lt_u ${add('column', 'i')} (local.get $columns))
              (then (f32.load ${add('from', mul('i', rowStride * 4))})) (else (f32.const 0))))`}
        ${advance('from', 4)}
        ${advance('packed', panelRow)}`}
      ${advance('source', tile.columns * rowStride * 4)}
      ${gap ? advance('packed', gap * 4) : ''}`})`
}

/** Loads four rows of four and stores their transpose, using the v128 locals r0 to r3 and s0 to s3. */
function transpose4(load: (row: number) => string, store: (row: number, value: string) => string): string {
  return `
    ${repeat(4, i => `(local.set $r${i} ${load(i)})`)}
    (local.set $s0 ${shuffle([0, 4, 1, 5], 'r0', 'r1')})
    (local.set $s1 ${shuffle([2, 6, 3, 7], 'r0', 'r1')})
    (local.set $s2 ${shuffle([0, 4, 1, 5], 'r2', 'r3')})
    (local.set $s3 ${shuffle([2, 6, 3, 7], 'r2', 'r3')})
    ${store(0, shuffle([0, 1, 4, 5], 's0', 's2'))}
    ${store(1, shuffle([2, 3, 6, 7], 's0', 's2'))}
    ${store(2, shuffle([0, 1, 4, 5], 's1', 's3'))}
    ${store(3, shuffle([2, 3, 6, 7], 's1', 's3'))}`
}

/**
 * WAT of `(func $name a packed depth rows)`, which packs A, stored [depth, rows] with a row stride, into groups of
 * tile.rows rows. Each group is [depth, rows in group] and followed by a gap; see panelFunction.
 */
export function packRowsFunction(
  name: string,
  tile: MicroKernel,
  rowCounts: readonly number[],
  strideA: number,
): string {
  const ahead = rowsAhead(4 * Math.max(...rowCounts))
  const heights = [...new Set(rowCounts.map(count => count % tile.rows))].filter(rest => rest > 0)
  // Packs $count steps of k of a group, four at a time.
  const packGroup = (height: number) => `
        (local.set $from ${add('source', mul('row', 4))})
        (local.set $to ${add('packed', mul('row', mul('depth', 4)), mul(divide('row', tile.rows), packedGap * 4), mul('k', height * 4))})
        ${loop('i', 0, and('count', -4), 4)`
          ${repeat(4, i => move(height, i * strideA * 4, i * height * 4))}
          ${advance('from', 4 * strideA * 4)}
          ${advance('to', 4 * height * 4)}`}
        ${loop('i', 'i', 'count', 1)`
          ${move(height)}
          ${advance('from', strideA * 4)}
          ${advance('to', height * 4)}`}`
  return `
  ${prefetchFunction(`${name}.prefetch`)}
  (func $${name} (param $a i32) (param $packed i32) (param $depth i32) (param $rows i32)
    ${locals('i32', 'k count row i whole source from to')}
    (local.set $whole ${sub('rows', remainder('rows', tile.rows))})
    ${loop('k', 0, 'depth', ahead)`
      (local.set $count ${min(sub('depth', 'k'), ahead)})
      (local.set $source ${add('a', mul('k', strideA * 4))})
      ${call(`${name}.prefetch`, 'source', 'count', strideA * 4, mul('rows', 4))}
      ${loop('row', 0, 'whole', tile.rows)`${packGroup(tile.rows)}`}
      ${heights.map(height => `(if (i32.eq ${sub('rows', 'row')} (i32.const ${height})) (then ${packGroup(height)}))`).join('\n')}`})`
}

/** WAT of `(func $name from fromStride to toStride rows)`, which copies rows of `width` floats. Strides are in bytes. */
export function copyFunction(name: string, width: number): string {
  return `
  (func $${name} (param $from i32) (param $fromStride i32) (param $to i32) (param $toStride i32)
    (param $rows i32)
    (local $row i32)
    ${loop('row', 0, 'rows', 1)`
      ${move(width)}
      ${advance('from', 'fromStride')}
      ${advance('to', 'toStride')}`})`
}

/** Copies `count` consecutive floats from $from + `fromSkip` bytes to $to + `toSkip` bytes, in the widest loads possible. */
function move(count: number, fromSkip = 0, toSkip = 0): string {
  const pieces: string[] = []
  for (let at = 0; at < count;) {
    const width = count - at >= 4 ? 4 : count - at >= 2 ? 2 : 1
    const type = width === 4 ? 'v128' : width === 2 ? 'i64' : 'i32'
    pieces.push(`(${type}.store offset=${toSkip + at * 4} align=4 (local.get $to)
        (${type}.load offset=${fromSkip + at * 4} align=4 (local.get $from)))`)
    at += width
  }
  return pieces.join('\n')
}

/** How many rows of this many bytes packing prefetches: as many as fit in the L1 cache. */
const rowsAhead = (bytes: number) => Math.max(1, Math.floor(2 ** 15 / bytes))
