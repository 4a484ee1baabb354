/** The inner loops of every matrix product: a tile of C whose sums stay in registers. */
import { add, advance, and, locals, mul, multiplyAdd, repeat } from '../wat.ts'

/** The size of the tile of C whose sums stay in registers, and how a product is added to a sum. */
export interface MicroKernel {
  readonly rows: number
  /** A multiple of 4; a multiple of 8 lets V8 join pairs of 128-bit operations into 256-bit ones. */
  readonly columns: number
  /** Whether to use f32x4.relaxed_madd; otherwise a multiplication and an addition. */
  readonly fma: boolean
}

/** The part of a kernel's name that stands for its tile. */
export function tileName(tile: MicroKernel): string {
  return `${tile.rows}x${tile.columns}${tile.fma ? '' : 'm'}`
}

/**
 * The most terms that are added to one sum one after the other. A longer sum is split: each block of k gets a partial
 * sum of its own, which loses fewer digits.
 */
export const longestSum = 4096

/** Floats between packed groups or panels. Without a gap they would compete for the same cache sets. */
export const packedGap = 16

/** Steps of k in one iteration of the inner loop. */
const unroll = 4

/**
 * WAT of the tile function, which all matrix products end in:
 * `(func $name (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32))`
 * computes C = addend + A·B, with C and the addend at $from [rows, tile.columns], A [rows, depth] and B a packed panel
 * [depth, tile.columns]. Strides are in floats; without `addendStride`, C = A·B. The sums stay in registers and run in
 * the order of k. They start from the addend; with `addsLast` they start from zero, and the addend is added at the end.
 */
export function tileFunction(
  name: string,
  tile: MicroKernel,
  shape: {
    rows: number
    /** Distance between rows of A. */
    strideA: number
    /** Distance between neighbouring elements of a row of A. */
    stepA: number
    strideC: number
    addendStride?: number
    addsLast?: boolean
  },
): string {
  const { rows, strideA, stepA, strideC, addendStride, addsLast } = shape
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
  // depth & mask steps, `count` at a time.
  const steps = (count: number, mask: number) => `
    (local.set $end ${add('b', mul(and('depth', mask), tile.columns * 4))})
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $b) (local.get $end)))
      ${repeat(count, step)}
      ${advance('a', count * stepA * 4)}
      ${advance('b', count * tile.columns * 4)}
      (br $next)))`
  const from = (row: number, v: number) =>
    `(v128.load offset=${(row * (addendStride ?? 0) + 4 * v) * 4} align=4 (local.get $from))`
  // V8 pairs operations into 256-bit ones only if all loads come before the first store and the stores are in order.
  return `
  (func $${name} (param $a i32) (param $b i32) (param $depth i32) (param $from i32) (param $c i32)
    (local $end i32) (local $a0 v128)
    ${repeat(vectors, v => locals('v128', `b${v}`))}
    ${sums((row, v) => locals('v128', `c${row}_${v}`))}
    ${addendStride === undefined || addsLast ? '' : sums((row, v) => `(local.set $c${row}_${v} ${from(row, v)})`)}
    ${steps(unroll, -unroll)}
    ${steps(1, unroll - 1)}
    ${
      addsLast
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
 * (param $rows i32))`, with the parameters of tileFunction. `rows` may be any of `rowCounts`.
 * strideA 'packed' means that A is stored as packRowsFunction leaves it: in groups of tile.rows rows (fewer in the last
 * group), each [depth, rows in group] and followed by a gap. Otherwise A is row-major.
 */
export function panelFunction(
  name: string,
  tile: MicroKernel,
  shape: {
    rowCounts: readonly number[]
    strideA: number | 'packed'
    strideC: number
    addendStride?: number
    addsLast?: boolean
  },
): string {
  const { rowCounts, strideA, strideC, addendStride, addsLast } = shape
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
        addendStride,
        addsLast,
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
      ${addendStride === undefined ? '' : advance('from', addendStride * tile.rows * 4)}
      ${advance('c', strideC * tile.rows * 4)}
      ${advance('rows', -tile.rows)}
      (br $next)))`
    }
    ${heights
      .filter(rows => rows < tile.rows)
      .map(rows => `(if (i32.eq (local.get $rows) (i32.const ${rows})) (then ${call(rows)}))`)
      .join('\n')})`
}

/** The smallest multiple of `multiple` that is at least `value`. */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
