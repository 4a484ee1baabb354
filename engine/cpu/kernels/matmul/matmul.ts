/**
 * Matrix products in the manner of GotoBLAS (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication",
 * 2008). k is cut into blocks. A panel of B, tile.columns wide and one k-block deep, stays in cache while the rows of A
 * are multiplied with it, and a tile of C stays in registers for the whole k-block. B is packed, beforehand or by each
 * item, so that its panels are contiguous.
 */
import type { Kernel } from '../kernel.ts'
import { add, advance, locals, loop, min, mul } from '../wat.ts'
import { type MicroKernel, longestSum, packedGap, panelFunction, roundUp, tileName } from './micro-kernel.ts'
import {
  copyFunction,
  packFunction,
  packRowsFunction,
  packTransposedFunction,
  packedFloats,
} from './packing.ts'
import type { Tiling } from './tiling.ts'

/** The shape of one batched product; all strides are in floats. */
export interface MatmulShape {
  readonly m: number
  readonly n: number
  readonly k: number
  /** A is stored [k, m] instead of [m, k]. */
  readonly transposeA: boolean
  readonly rowStrideA: number
  readonly rowStrideC: number
  /** How B is stored, [k, n] or when transposed [n, k], if each item packs it. Otherwise B is packed already. */
  readonly unpackedB?: { readonly rowStride: number; readonly transposed: boolean }
  /** Strides of a matrix [m, n] that is added to the product; it may be C itself. */
  readonly addend?: { readonly rowStride: number; readonly batchStride?: number }
  /** Number of products, and the distances between their operands. strideB defaults to packedFloats, if B is packed. */
  readonly batch?: {
    readonly count: number
    readonly strideA: number
    readonly strideB?: number
    readonly strideC: number
  }
}

/**
 * C[m,n] = A[m,k]·B[k,n] (+ addend[m,n]) in float32, all row-major.
 * Operands: a, b (as packKernel leaves it for the same kBlock, or unpacked), c, and the addend if there is one.
 * Item (batch * rowBlocks + rowBlock) * columnBlocks + columnBlock computes that block of C, and writes nothing
 * outside of C's m rows and n columns. Each element is summed in the order of k, starting from the addend, whatever the
 * row and column blocks are. If k exceeds longestSum, each block of k is summed by itself and then added.
 */
export function matmulKernel(shape: MatmulShape, tiling: Tiling, tile: MicroKernel): Kernel {
  const { m, n, k, transposeA, rowStrideA, rowStrideC, addend, unpackedB } = shape
  const kBlock = Math.min(tiling.kBlock, k)
  const rowBlock = Math.min(tiling.rowBlock, m)
  const columnBlock = Math.min(tiling.columnBlock, roundUp(n, tile.columns))
  const rowStep = Math.min(tiling.rowStep ?? rowBlock, rowBlock)
  if (columnBlock % tile.columns !== 0) {
    throw new Error(`A column block of ${columnBlock} is no multiple of the tile's ${tile.columns} columns`)
  }
  if (rowStep < rowBlock && rowStep % tile.rows !== 0) {
    throw new Error(`A row step of ${rowStep} is no multiple of the tile's ${tile.rows} rows`)
  }
  const rowBlocks = Math.ceil(m / rowBlock)
  const columnBlocks = Math.ceil(n / columnBlock)
  const batch = {
    strideB: packedFloats(k, n, tile),
    ...(shape.batch ?? { count: 1, strideA: 0, strideC: 0 }),
  }
  const addendStride = addend?.rowStride
  const batchStrideAddend = addend?.batchStride ?? batch.strideC
  const name = [
    'matmul',
    tileName(tile),
    `${m}x${n}x${k}`,
    transposeA ? 't' : 'n',
    rowStrideA,
    rowStrideC,
    ...(addend ? ['r', addendStride, batchStrideAddend] : []),
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
  const addsLast = manyBlocks && k > longestSum
  // Scratch memory: the packed block of A, the packed block of B, then the edge's block of C, as wide as a tile.
  const groupsOfA = Math.ceil(rowStep / tile.rows)
  const panelsOffset = transposeA ? roundUp(rowStep * kBlock + groupsOfA * packedGap, 16) * 4 : 0
  const panelGap = unpackedB ? packedGap : 0
  const panelsBytes = unpackedB ? (kBlock * columnBlock + (columnBlock / tile.columns) * packedGap) * 4 : 0
  const edgeOffset = panelsOffset + panelsBytes
  const scratchBytes = edgeOffset + (edge > 0 ? rowStep * tile.columns * 4 : 0)
  // The widths that an item's block of C can have.
  const widths = [...new Set([Math.min(columnBlock, n), n - (columnBlocks - 1) * columnBlock])]
  const callPanel = (variant: string, from: string, c: string) => `(call $${name}.${variant}
    (local.get $blockA) (local.get $panel) (local.get $depth) ${from} ${c} (local.get $count))`
  const whenFirst = (first: string, next: string) =>
    manyBlocks ? `(if (i32.eqz (local.get $k)) (then ${first}) (else ${next}))` : first
  const copy = (from: string, addendStride: number, to: string, strideTo: number) => `(call $${name}.copy
    ${from} (i32.const ${addendStride * 4}) ${to} (i32.const ${strideTo * 4}) (local.get $count))`
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
  const computeEdge = `
      (if (i32.le_u (i32.const ${n}) ${add('start', columnBlock)}) (then
        ${whenFirst(
          addend ? copy(edgeFrom, addend.rowStride, edgeTile, tile.columns) : '',
          copy(edgeC, rowStrideC, edgeTile, tile.columns),
        )}
        ${whenFirst(
          callPanel(addend ? 'nextEdge' : 'firstEdge', edgeTile, edgeTile),
          callPanel('nextEdge', edgeTile, edgeTile),
        )}
        ${copy(edgeTile, tile.columns, edgeC, rowStrideC)}))`

  const wat = `
  ${panelFunction(`${name}.first`, tile, { rowCounts, strideA, strideC: rowStrideC, addendStride })}
  ${
    manyBlocks
      ? panelFunction(`${name}.next`, tile, {
          rowCounts,
          strideA,
          strideC: rowStrideC,
          addendStride: rowStrideC,
          addsLast,
        })
      : ''
  }
  ${
    edge > 0 && !addend
      ? panelFunction(`${name}.firstEdge`, tile, { rowCounts, strideA, strideC: tile.columns })
      : ''
  }
  ${
    edge > 0 && (addend || manyBlocks)
      ? panelFunction(`${name}.nextEdge`, tile, {
          rowCounts,
          strideA,
          strideC: tile.columns,
          addendStride: tile.columns,
          addsLast,
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
      !addend
        ? ''
        : `(local.set $from ${add(
            '(i32.load offset=12 (local.get $arguments))',
            mul('item', batchStrideAddend * 4),
            mul('row', addend.rowStride * 4),
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
        ${edge > 0 ? computeEdge : ''}
        ${advance('blockOfA', (transposeA ? 4 : rowStrideA * 4) * rowStep)}
        ${advance('blockOfC', rowStrideC * rowStep * 4)}
        ${addend ? advance('blockOfFrom', addend.rowStride * rowStep * 4) : ''}`}`})`
  return { name, wat, items: batch.count * rowBlocks * columnBlocks, scratchBytes }
}
