import type { Kernel } from './kernel.ts'
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
  multiplyAdd,
  prefetchFunction,
  remainder,
  repeat,
  shuffle,
  sub,
} from './wat.ts'

/**
 * Matrix products in the manner of GotoBLAS (Goto and van de Geijn, "Anatomy of high-performance
 * matrix multiplication", 2008): k is cut into blocks; a panel of B, tile.columns wide and one k-block
 * deep, stays in cache while the rows of A pass by it; a tile of C stays in registers for the whole
 * k-block. B is packed, beforehand or by each item, so that its panels are contiguous.
 */

/** The tile of C whose sums stay in registers, and how a product is added to a sum. */
export interface MicroKernel {
  readonly rows: number
  /** A multiple of 4, and of 8 where pairs of 128-bit operations are to become 256-bit ones. */
  readonly columns: number
  /** Whether f32x4.relaxed_madd exists; else a multiplication and an addition. */
  readonly fma: boolean
}

/** Names the tile within a kernel's name. */
export function tileName(tile: MicroKernel): string {
  return `${tile.rows}x${tile.columns}${tile.fma ? '' : 'm'}`
}

/** How many steps of k the inner loop does at a time. */
const unroll = 4

/** Floats between packed groups or panels: they are filled all at once, and are not to share their cache sets. */
const packedGap = 16

/**
 * WAT of the function that every matrix product ends in:
 * `(func $name (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32))`
 * computes C = From + A·B, with C [rows, tile.columns], A [rows, depth] and B a packed panel
 * [depth, tile.columns]. Strides are in floats; without `strideFrom`, C = A·B. The sums stay in
 * registers and are taken in the order of k: they start from From, or with `addsFrom` from zero, and From is
 * added at the end.
 */
export function tileFunction(
  name: string,
  tile: MicroKernel,
  shape: {
    rows: number
    /** From a row of A to the next, and from one k to the next. */
    strideA: number
    stepA: number
    strideC: number
    strideFrom?: number
    addsFrom?: boolean
  },
): string {
  const { rows, strideA, stepA, strideC, strideFrom, addsFrom } = shape
  const vectors = tile.columns / 4
  const sums = (text: (row: number, vector: number) => string) =>
    repeat(rows, row => repeat(vectors, vector => text(row, vector)))
  // One step of k: a row of B times each element of a column of A.
  const step = (k: number) => `
      ${repeat(
        vectors,
        v => `(local.set $b${v}
        (v128.load offset=${(k * tile.columns + 4 * v) * 4} align=4 (local.get $b)))`,
      )}
      ${repeat(
        rows,
        row => `(local.set $a0
        (v128.load32_splat offset=${(row * strideA + k * stepA) * 4} (local.get $a)))
        ${repeat(
          vectors,
          v => `(local.set $c${row}_${v}
          ${multiplyAdd(tile.fma, '(local.get $a0)', `(local.get $b${v})`, `(local.get $c${row}_${v})`)})`,
        )}`,
      )}`
  // As many steps as the depth has in the bits of `mask`, `count` at a time.
  const steps = (count: number, mask: number) => `
    (local.set $end ${add('b', mul(and('depth', mask), tile.columns * 4))})
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $b) (local.get $end)))
      ${repeat(count, step)}
      ${advance('a', count * stepA * 4)}
      ${advance('b', count * tile.columns * 4)}
      (br $next)))`
  const from = (row: number, v: number) =>
    `(v128.load offset=${(row * (strideFrom ?? 0) + 4 * v) * 4} align=4 (local.get $from))`
  // All loads come before the first store, and the stores in order: V8 pairs them to 256 bits only so.
  return `
  (func $${name} (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32)
    (local $end i32) (local $a0 v128)
    ${repeat(vectors, v => locals('v128', `b${v}`))}
    ${sums((row, v) => locals('v128', `c${row}_${v}`))}
    ${strideFrom === undefined || addsFrom ? '' : sums((row, v) => `(local.set $c${row}_${v} ${from(row, v)})`)}
    ${steps(unroll, -unroll)}
    ${steps(1, unroll - 1)}
    ${
      addsFrom
        ? sums((row, v) => `(local.set $c${row}_${v} (f32x4.add ${from(row, v)} (local.get $c${row}_${v})))`)
        : ''
    }
    ${sums(
      (row, v) => `(v128.store offset=${(row * strideC + 4 * v) * 4} align=4
      (local.get $c) (local.get $c${row}_${v}))`,
    )})`
}

/**
 * WAT of the function that multiplies many rows of A with one packed panel of B:
 * `(func $name (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32)
 * (param $rows i32))`, with the meanings of tileFunction. `rows` may be any of `rowCounts`.
 * With `packed`, A is stored as groups of tile.rows rows (the last group may be smaller), each group
 * [depth, rows in group] and a gap, as packRows leaves it; else row-major with `strideA`.
 */
export function panelFunction(
  name: string,
  tile: MicroKernel,
  shape: {
    rowCounts: readonly number[]
    strideA: number | 'packed'
    strideC: number
    strideFrom?: number
    addsFrom?: boolean
  },
): string {
  const { rowCounts, strideA, strideC, strideFrom, addsFrom } = shape
  const heights = rowCounts.some(count => count >= tile.rows) ? [tile.rows] : []
  heights.push(...new Set(rowCounts.map(count => count % tile.rows).filter(count => count > 0)))
  const call = (rows: number) =>
    `(call $${name}.${rows}
      (local.get $a) (local.get $b) (local.get $depth) (local.get $from) (local.get $c))`
  return `
  ${heights
    .map(rows =>
      tileFunction(`${name}.${rows}`, tile, {
        rows,
        strideC,
        strideFrom,
        addsFrom,
        strideA: strideA === 'packed' ? 1 : strideA,
        stepA: strideA === 'packed' ? rows : 1,
      }),
    )
    .join('\n')}
  (func $${name} (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32)
    (param $rows i32)
    ${
      heights[0] !== tile.rows
        ? ''
        : `
    (block $done (loop $next
      (br_if $done (i32.lt_u (local.get $rows) (i32.const ${tile.rows})))
      ${call(tile.rows)}
      ${advance('a', strideA === 'packed' ? add(mul('depth', tile.rows * 4), packedGap * 4) : strideA * tile.rows * 4)}
      ${strideFrom === undefined ? '' : advance('from', strideFrom * tile.rows * 4)}
      ${advance('c', strideC * tile.rows * 4)}
      ${advance('rows', -tile.rows)}
      (br $next)))`
    }
    ${heights
      .filter(rows => rows < tile.rows)
      .map(rows => `(if (i32.eq (local.get $rows) (i32.const ${rows})) (then ${call(rows)}))`)
      .join('\n')})`
}

/** One batched product; all strides are in floats. */
export interface MatmulShape {
  readonly m: number
  readonly n: number
  readonly k: number
  /** A is stored [k, m] instead of [m, k]. */
  readonly transposeA: boolean
  readonly rowStrideA: number
  readonly rowStrideC: number
  /** B as it is stored, [k, n] or when transposed [n, k], to be packed by each item; else it is packed already. */
  readonly unpackedB?: { readonly rowStride: number; readonly transposed: boolean }
  /** The sums start from this matrix [m, n], which may be C itself, instead of zero. */
  readonly residual?: { readonly rowStride: number; readonly batchStride?: number }
  /** How many products, and how far apart their operands are; strideB defaults to packedFloats, if B is packed. */
  readonly batch?: {
    readonly count: number
    readonly strideA: number
    readonly strideB?: number
    readonly strideC: number
  }
}

/** How a product is cut; of the sums only those over more than longDepth depend on it, on kBlock. */
export interface MatmulPlan {
  readonly kBlock: number
  /** An item's block of C. */
  readonly rowBlock: number
  readonly columnBlock: number
  /** An item's rows are done so many at a time, a multiple of tile.rows; by default, all of them. */
  readonly rowStep?: number
}

/** The most terms that are added to one sum one after the other; of more, each block of k has a sum of its own. */
export const longDepth = 4096

/** How many floats B [k, n] takes when it is packed. */
export function packedFloats(k: number, n: number, tile: MicroKernel): number {
  return k * roundUp(n, tile.columns)
}

/**
 * C[m,n] = A[m,k]·B[k,n] (+ residual[m,n]) in float32, all row-major.
 * Operands: a, b (as packKernel leaves it for the same kBlock, or unpacked), c, and the residual if there is one.
 * Item (batch * rowBlocks + rowBlock) * columnBlocks + columnBlock makes that block of C, and nothing
 * outside of C's m rows and n columns is written. Each element is summed in the order of k, starting
 * from the residual, whatever the blocks of rows and columns; where k is more than longDepth, each block of k is
 * summed up by itself first.
 */
export function matmulKernel(shape: MatmulShape, plan: MatmulPlan, tile: MicroKernel): Kernel {
  const { m, n, k, transposeA, rowStrideA, rowStrideC, residual, unpackedB } = shape
  const kBlock = Math.min(plan.kBlock, k)
  const rowBlock = Math.min(plan.rowBlock, m)
  const columnBlock = Math.min(plan.columnBlock, roundUp(n, tile.columns))
  const rowStep = Math.min(plan.rowStep ?? rowBlock, rowBlock)
  if (columnBlock % tile.columns !== 0) {
    throw new Error(`A column block of ${columnBlock} is no multiple of the tile's ${tile.columns} columns`)
  }
  if (rowStep < rowBlock && rowStep % tile.rows !== 0) {
    throw new Error(`${rowStep} rows at a time are no multiple of the tile's ${tile.rows} rows`)
  }
  const rowBlocks = Math.ceil(m / rowBlock)
  const columnBlocks = Math.ceil(n / columnBlock)
  const batch = {
    strideB: packedFloats(k, n, tile),
    ...(shape.batch ?? { count: 1, strideA: 0, strideC: 0 }),
  }
  const strideFrom = residual?.rowStride
  const batchStrideFrom = residual?.batchStride ?? batch.strideC
  const name = [
    'matmul',
    tileName(tile),
    `${m}x${n}x${k}`,
    transposeA ? 't' : 'n',
    rowStrideA,
    rowStrideC,
    ...(residual ? ['r', strideFrom, batchStrideFrom] : []),
    ...(shape.batch ? ['b', batch.count, batch.strideA, batch.strideB, batch.strideC] : []),
    ...(unpackedB ? ['u', unpackedB.rowStride, unpackedB.transposed ? 't' : 'n'] : []),
    kBlock,
    rowBlock,
    columnBlock,
    ...(rowStep < rowBlock ? [rowStep] : []),
  ].join('_')

  const fullColumns = n - (n % tile.columns)
  const edge = n - fullColumns
  const stepsOf = (rows: number) => [...(rows >= rowStep ? [rowStep] : []), rows % rowStep]
  const heights = [rowBlock, m - (rowBlocks - 1) * rowBlock].flatMap(stepsOf)
  const rowCounts = [...new Set(heights.filter(rows => rows > 0))]
  const strideA = transposeA ? 'packed' : rowStrideA
  const manyBlocks = kBlock < k
  const addsFrom = manyBlocks && k > longDepth
  // Scratch: the packed block of A, that of B, then the edge's block of C, as wide as a tile.
  const groupsOfA = Math.ceil(rowStep / tile.rows)
  const panelsOffset = transposeA ? roundUp(rowStep * kBlock + groupsOfA * packedGap, 16) * 4 : 0
  const panelGap = unpackedB ? packedGap : 0
  const panelsBytes = unpackedB ? (kBlock * columnBlock + (columnBlock / tile.columns) * packedGap) * 4 : 0
  const edgeOffset = panelsOffset + panelsBytes
  const scratchBytes = edgeOffset + (edge > 0 ? rowStep * tile.columns * 4 : 0)
  // How wide an item's block of C may be.
  const widths = [...new Set([Math.min(columnBlock, n), n - (columnBlocks - 1) * columnBlock])]
  const callPanel = (variant: string, from: string, c: string) => `(call $${name}.${variant}
    (local.get $blockA) (local.get $panel) (local.get $depth) ${from} ${c} (local.get $count))`
  const whenFirst = (first: string, next: string) =>
    manyBlocks ? `(if (i32.eqz (local.get $k)) (then ${first}) (else ${next}))` : first
  const copy = (from: string, strideFrom: number, to: string, strideTo: number) => `(call $${name}.copy
    ${from} (i32.const ${strideFrom * 4}) ${to} (i32.const ${strideTo * 4}) (local.get $count))`
  const column = mul('column', 4)
  const packBlockA = `
      (local.set $blockA (local.get $scratch))
      (call $${name}.packRows ${add('blockOfA', mul('k', rowStrideA * 4))} (local.get $scratch)
        (local.get $depth) (local.get $count))`
  const packBlockB = (width: number) =>
    unpackedB?.transposed
      ? `(call $${name}.packB ${add('b', mul('start', unpackedB.rowStride * 4), mul('k', 4))}
        (local.get $panels) (i32.const ${width}) (local.get $depth))`
      : `(call $${name}.packB${width} ${add('b', mul('k', (unpackedB?.rowStride ?? 0) * 4), mul('start', 4))}
        (local.get $panels) (local.get $depth) (local.get $depth))`
  const packB =
    widths.length === 1
      ? packBlockB(widths[0])
      : `
      (if ${`(i32.eq (local.get $start) (i32.const ${(columnBlocks - 1) * columnBlock}))`}
        (then ${packBlockB(widths[1])}) (else ${packBlockB(widths[0])}))`
  const edgeTile = '(local.get $edge)'
  const edgeC = add('blockOfC', fullColumns * 4)
  const edgeFrom = add('blockOfFrom', fullColumns * 4)
  const makeEdge = `
      (if (i32.le_u (i32.const ${n}) ${add('start', columnBlock)}) (then
        ${whenFirst(
          residual ? copy(edgeFrom, residual.rowStride, edgeTile, tile.columns) : '',
          copy(edgeC, rowStrideC, edgeTile, tile.columns),
        )}
        ${whenFirst(
          callPanel(residual ? 'nextEdge' : 'firstEdge', edgeTile, edgeTile),
          callPanel('nextEdge', edgeTile, edgeTile),
        )}
        ${copy(edgeTile, tile.columns, edgeC, rowStrideC)}))`

  const wat = `
  ${panelFunction(`${name}.first`, tile, { rowCounts, strideA, strideC: rowStrideC, strideFrom })}
  ${
    manyBlocks
      ? panelFunction(`${name}.next`, tile, {
          rowCounts,
          strideA,
          strideC: rowStrideC,
          strideFrom: rowStrideC,
          addsFrom,
        })
      : ''
  }
  ${
    edge > 0 && !residual
      ? panelFunction(`${name}.firstEdge`, tile, { rowCounts, strideA, strideC: tile.columns })
      : ''
  }
  ${
    edge > 0 && (residual || manyBlocks)
      ? panelFunction(`${name}.nextEdge`, tile, {
          rowCounts,
          strideA,
          strideC: tile.columns,
          strideFrom: tile.columns,
          addsFrom,
        })
      : ''
  }
  ${edge > 0 ? copyFunction(`${name}.copy`, edge) : ''}
  ${transposeA ? packRowsFunction(`${name}.packRows`, tile, rowCounts, rowStrideA) : ''}
  ${
    !unpackedB
      ? ''
      : unpackedB.transposed
        ? packTransposedFunction(`${name}.packB`, tile, unpackedB.rowStride, packedGap)
        : widths
            .map(width => packFunction(`${name}.packB${width}`, tile, width, unpackedB.rowStride, packedGap))
            .join('\n')
  }
  (func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    ${locals('i32', 'a b c from row rows count step column start end k depth panels panel edge')}
    ${locals('i32', 'blockA blockOfA blockOfC blockOfFrom')}
    (local.set $start ${mul(`(i32.rem_u (local.get $item) (i32.const ${columnBlocks}))`, columnBlock)})
    (local.set $item (i32.div_u (local.get $item) (i32.const ${columnBlocks})))
    (local.set $row ${mul(`(i32.rem_u (local.get $item) (i32.const ${rowBlocks}))`, rowBlock)})
    (local.set $item (i32.div_u (local.get $item) (i32.const ${rowBlocks})))
    (local.set $rows ${min(`(i32.sub (i32.const ${m}) (local.get $row))`, rowBlock)})
    (local.set $end ${min(add('start', columnBlock), fullColumns)})
    (local.set $a ${add(
      '(i32.load (local.get $arguments))',
      mul('item', batch.strideA * 4),
      mul('row', transposeA ? 4 : rowStrideA * 4),
    )})
    (local.set $b ${add('(i32.load offset=4 (local.get $arguments))', mul('item', batch.strideB * 4))})
    (local.set $c ${add(
      '(i32.load offset=8 (local.get $arguments))',
      mul('item', batch.strideC * 4),
      mul('row', rowStrideC * 4),
    )})
    ${
      !residual
        ? ''
        : `(local.set $from ${add(
            '(i32.load offset=12 (local.get $arguments))',
            mul('item', batchStrideFrom * 4),
            mul('row', residual.rowStride * 4),
          )})`
    }
    (local.set $edge ${add('scratch', edgeOffset)})
    ${unpackedB ? `(local.set $panels ${add('scratch', panelsOffset)})` : ''}
    ${loop('k', 0, k, kBlock)`
      (local.set $depth ${min(`(i32.sub (i32.const ${k}) (local.get $k))`, kBlock)})
      ${
        unpackedB
          ? packB
          : `(local.set $panels
        ${add('b', mul('k', roundUp(n, tile.columns) * 4), mul(mul('start', 4), 'depth'))})`
      }
      (local.set $blockOfA (local.get $a))
      (local.set $blockOfC (local.get $c))
      (local.set $blockOfFrom (local.get $from))
      ${loop('step', 0, 'rows', rowStep)`
        (local.set $count ${min(`(i32.sub (local.get $rows) (local.get $step))`, rowStep)})
        ${transposeA ? packBlockA : `(local.set $blockA ${add('blockOfA', mul('k', 4))})`}
        (local.set $panel (local.get $panels))
        ${loop('column', 'start', 'end', tile.columns)`
          ${whenFirst(
            callPanel('first', add('blockOfFrom', column), add('blockOfC', column)),
            callPanel('next', add('blockOfC', column), add('blockOfC', column)),
          )}
          ${advance('panel', add(mul('depth', tile.columns * 4), panelGap * 4))}`}
        ${edge > 0 ? makeEdge : ''}
        ${advance('blockOfA', (transposeA ? 4 : rowStrideA * 4) * rowStep)}
        ${advance('blockOfC', rowStrideC * rowStep * 4)}
        ${residual ? advance('blockOfFrom', residual.rowStride * rowStep * 4) : ''}`}`})`
  return { name, wat, items: batch.count * rowBlocks * columnBlocks, scratchBytes }
}

/** `(func $name from fromStride to toStride rows)` copies rows of `width` floats; strides in bytes. */
function copyFunction(name: string, width: number): string {
  return `
  (func $${name} (param $from i32) (param $fromStride i32) (param $to i32) (param $toStride i32)
    (param $rows i32)
    (local $row i32)
    ${loop('row', 0, 'rows', 1)`
      ${move(width)}
      ${advance('from', 'fromStride')}
      ${advance('to', 'toStride')}`})`
}

/** Rows of so many bytes that packing fetches ahead of itself: as many as fit the L1 cache. */
const rowsAhead = (bytes: number) => Math.max(1, Math.floor(2 ** 15 / bytes))

/** Copies `count` neighbouring floats from $from, `fromSkip` bytes on, to $to, `toSkip` bytes on, in the widest pieces there are. */
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

/**
 * `(func $name a packed depth rows)` packs A, stored [depth, rows] with a row stride, into groups of
 * tile.rows rows, each group [depth, rows in group] and a gap; see panelFunction.
 */
function packRowsFunction(
  name: string,
  tile: MicroKernel,
  rowCounts: readonly number[],
  strideA: number,
): string {
  const ahead = rowsAhead(4 * Math.max(...rowCounts))
  const heights = [...new Set(rowCounts.map(count => count % tile.rows))].filter(rest => rest > 0)
  // $count rows of k of a group, unrolled.
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

/** What packKernel packs: B [k, n], row-major, or stored [n, k] when transposed. */
export interface PackShape {
  readonly k: number
  readonly n: number
  /** From one stored row to the next, in floats. */
  readonly rowStride: number
  readonly transposed: boolean
  /** How many matrices, and how far apart they are in the source; packed they lie packedFloats apart. */
  readonly batch?: { readonly count: number; readonly stride: number }
}

/**
 * Packs B for matmulKernel: for each block of kBlock rows, for each panel of tile.columns columns, the
 * panel's [rows in block, tile.columns] elements, zeros where n ends within the panel.
 * Operands: source, destination.
 * An item is a block of `block` stored rows of the source: rows of B (`block` divides kBlock, so this can
 * follow what makes those rows while they are in cache), or columns of B when transposed (`block` is a
 * multiple of tile.columns). Item batch * blocks + i does rows i * block up to (i + 1) * block.
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
  const left = (local: string, count: number, most: number) =>
    min(`(i32.sub (i32.const ${count}) (local.get $${local}))`, most)
  // $start is the item's first row of B: its place within its k-block is its place within the panels.
  const packRowsOfB = `
    (local.set $k ${mul(`(i32.div_u (local.get $start) (i32.const ${depth}))`, depth)})
    (call $${name}.pack
      ${add('source', mul('start', rowStride * 4))}
      ${add('to', mul('k', rowBytes), mul('(i32.sub (local.get $start) (local.get $k))', tile.columns * 4))}
      ${left('start', k, block)}
      ${left('k', k, depth)})`
  // $start is the item's first column of B.
  const packColumnsOfB = `
    ${loop('k', 0, k, depth)`
      (local.set $depth ${left('k', k, depth)})
      (call $${name}.pack
        ${add('source', mul('start', rowStride * 4), mul('k', 4))}
        ${add('to', mul('k', rowBytes), mul(mul('start', 4), 'depth'))}
        ${left('start', n, block)}
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
 * WAT of `(func $name (param $source i32) (param $packed i32) (param $rows i32) (param $depth i32))`:
 * deals `rows` rows of B [., n] out to the panels of tile.columns columns, which are `depth` rows deep,
 * from the row on that `packed` points at in the first panel. Zeros fill the last panel's columns. Panels are
 * `gap` floats apart.
 */
export function packFunction(name: string, tile: MicroKernel, n: number, rowStride: number, gap = 0): string {
  const edge = n % tile.columns
  const fill = repeat(
    tile.columns - edge,
    i => `(f32.store offset=${4 * (edge + i)} (local.get $to) (f32.const 0))`,
  )
  const ahead = rowsAhead(4 * n)
  // $count rows of a panel.
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
 * WAT of `(func $name (param $source i32) (param $packed i32) (param $columns i32) (param $depth i32))`:
 * packs `columns` columns of B, stored [columns, depth], into panels, filling the last one with zeros. Panels
 * are `gap` floats apart.
 */
export function packTransposedFunction(name: string, tile: MicroKernel, rowStride: number, gap = 0): string {
  const panelRow = tile.columns * 4
  // 4 x 4 blocks are transposed in registers.
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

/** Loads four rows of four, and stores their transpose, through the v128 locals r0 to r3 and s0 to s3. */
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
 * The most k in a block. Deeper than a panel of B that fits L1 (it comes from L2 fast enough), since every
 * block more is a start, an end, and a pass over C.
 */
export const deepestBlock = 768

/**
 * The same for products that stand alone: there, a few rows of A are all that has to stay in L2 beside B. Where A
 * has to be packed, the pages and cache lines that a block touches count more; and the sums of a very long k are the
 * more exact the nearer the number of its blocks is to the number of terms in one.
 */
const [deepestAlone, deepestPacked] = [1024, 384]

/** How many floats of a packed block of A, or of B where items pack it, are to stay in the L2 cache. */
const [mostOfA, mostOfB] = [2 ** 16, 2 ** 18]

/** The k in a block: equal parts of k, each a multiple of `multiple` (for packing by row blocks). */
export function kBlockOf(k: number, multiple: number, deepest = deepestBlock): number {
  return Math.min(k, roundUp(Math.ceil(k / Math.ceil(k / deepest)), multiple))
}

/**
 * Chooses the blocks of a product, and whether its items pack B (packsB), for a number of threads.
 * usesOfB: how many products would share B if it was packed beforehand. parts: how many like it the threads have to do
 * at the same time.
 */
export function matmulPlan(
  shape: {
    m: number
    n: number
    k: number
    transposeA: boolean
    transposeB: boolean
    batch: number
    usesOfB: number
    parts?: number
  },
  tile: MicroKernel,
  threads: number,
  kMultiple = 4,
): MatmulPlan & { readonly packsB: boolean } {
  const { m, n, k, transposeA, transposeB, batch, usesOfB, parts = 1 } = shape
  const kBlock = kBlockOf(k, kMultiple, transposeA || k > 8 * longDepth ? deepestPacked : deepestAlone)
  // Cycles to fetch an element of a matrix from where it fits: L2, L3, or memory.
  const fetch = (elements: number) => (elements <= 2 ** 18 ? 0.1 : elements <= 2 ** 23 ? 0.7 : 2)
  // The rows of A that a tile goes along are fetched ahead of it; those of Aᵀ are packed first.
  const columnOfA = transposeA ? fetch(m * k) + 1 : fetch(m * k) / 2
  const rowOfB = fetch(k * n)
  // Packed beforehand, B goes through memory once more; each thread packs its share and waits for the others.
  const packBefore = (7 * n * rowOfB) / threads / usesOfB + 20_000 / k
  // Pieces of the rows of B take longer to fetch than whole ones.
  const packRow = (columns: number) => (transposeB ? 1.5 : columns < n ? 1 + rowOfB / 2 : 1)
  const mostRows = Math.min(roundUp(128, tile.rows), Math.floor(mostOfA / kBlock))
  let best: (MatmulPlan & { readonly packsB: boolean }) | undefined
  let bestCost = Infinity
  for (const rowBlock of blocksOf(m, tile.rows, 2 * tile.rows)) {
    for (const columnBlock of blocksOf(n, tile.columns, 4 * tile.columns)) {
      const items = batch * Math.ceil(m / rowBlock) * Math.ceil(n / columnBlock)
      for (const packsB of kBlock * columnBlock <= mostOfB ? [false, true] : [false]) {
        // Cycles for one step of k: the sums, a column of A, a row of B.
        const cycles =
          (rowBlock * columnBlock) / 16 +
          rowBlock * columnOfA +
          columnBlock * (rowOfB + (packsB ? packRow(columnBlock) : 0))
        // Threads seldom run at the same speed: in the end they wait for a part of an item more.
        const turns = parts > 1 ? items / threads + 0.25 / parts : Math.ceil(items / threads) + 0.25
        const cost = turns * cycles + (packsB ? 0 : batch * packBefore)
        if (cost >= bestCost) continue
        bestCost = cost
        const steps = Math.ceil(rowBlock / mostRows)
        best = {
          kBlock,
          rowBlock,
          columnBlock,
          rowStep: roundUp(Math.ceil(rowBlock / steps), tile.rows),
          packsB,
        }
      }
    }
  }
  return best!
}

/** Sizes of the equal blocks that an extent can be cut into, multiples of `multiple` and of `least` or more. */
function blocksOf(extent: number, multiple: number, least: number): Set<number> {
  const blocks = new Set([roundUp(extent, multiple)])
  for (let parts = 2; extent / parts >= least; parts = Math.ceil(parts * (parts < 32 ? 1.01 : 1.2))) {
    blocks.add(roundUp(Math.ceil(extent / parts), multiple))
  }
  return blocks
}

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
