/**
 * Products of a few rows with a matrix, as in a network that processes one token at a time. There is too little
 * arithmetic to pay for packing: all that counts is to read the matrix once, as it is stored.
 */
import type { Kernel } from '../kernel.ts'
import type { MatmulShape } from './matmul.ts'
import { longestSum, roundUp } from './micro-kernel.ts'
import {
  add,
  advance,
  call,
  locals,
  min,
  mul,
  multiplyAdd,
  prefetchFunction,
  remainder,
  repeat,
  shuffle,
} from '../wat.ts'

/** The most rows of A for which this is faster than packing B. */
export const fewRows = 4

/**
 * The most k: these kernels have no partial sums for blocks of k, which longer sums need. A dot product of rows is eight
 * interleaved sums.
 */
export const mostDepth = (transposeB: boolean): number => (transposeB ? pair : 1) * longestSum

/** The shape of a product with few rows. A is row-major. */
export interface MatrixVectorShape extends Omit<MatmulShape, 'transposeA'> {
  /** B is stored [n, k] instead of [k, n]. */
  readonly transposeB: boolean
  readonly rowStrideB: number
}

/** Floats in two neighbouring vectors, which the revectorizer joins. */
const pair = 8
/** Rows of B that are read at the same time. */
const group = 4
/** How many bytes of B are prefetched: part of the L1 cache. */
const prefetchBytes = 3 * 2 ** 12

/**
 * C[m,n] = A[m,k]·B[k,n] (+ addend[m,n]) in float32 for a few rows of A.
 * Operands: a, b, c, and the addend if there is one, which may be c itself. An item computes a block of columns of C in
 * all rows. The number of items depends on the threads, but the order of each sum depends on k alone.
 */
export function matrixVectorKernel(shape: MatrixVectorShape, threads: number, fma: boolean): Kernel {
  const { m, n, k, transposeB, rowStrideA, rowStrideB, rowStrideC, addend } = shape
  const batch = shape.batch ?? { count: 1, strideA: 0, strideC: 0 }
  const strideB = shape.batch?.strideB ?? 0
  const addendBatchStride = addend?.batchStride ?? batch.strideC
  const columnBlock = transposeB ? rowsInBlock(n, k, threads) : columnsInBlock(n, threads)
  const blocks = Math.ceil(n / columnBlock)
  const name = [
    `vector${fma ? '' : 'm'}`,
    transposeB ? 't' : 'n',
    `${m}x${n}x${k}`,
    rowStrideA,
    rowStrideB,
    rowStrideC,
    ...(addend ? ['r', addend.rowStride, addendBatchStride] : []),
    ...(shape.batch ? ['b', batch.count, batch.strideA, strideB, batch.strideC] : []),
    columnBlock,
  ].join('_')
  const operand = (index: number, batchStride: number, columnStride: number) =>
    add(
      `(i32.load offset=${4 * index} (local.get $arguments))`,
      mul('item', batchStride * 4),
      mul('column', columnStride * 4),
    )
  const wat = `
  ${transposeB ? dotFunctions(name, shape, fma) : sumFunctions(name, shape, fma)}
  (func $${name} (param $arguments i32) (param $item i32) (param $scratch i32)
    ${locals('i32', 'column')}
    (local.set $column ${mul(`(i32.rem_u (local.get $item) (i32.const ${blocks}))`, columnBlock)})
    (local.set $item (i32.div_u (local.get $item) (i32.const ${blocks})))
    (call $${name}.block
      ${operand(0, batch.strideA, 0)}
      ${operand(1, strideB, transposeB ? rowStrideB : 1)}
      ${operand(2, batch.strideC, 1)}
      ${addend ? operand(3, addendBatchStride, 1) : '(i32.const 0)'}
      ${min(`(i32.sub (i32.const ${n}) (local.get $column))`, columnBlock)}
      (local.get $scratch)))`
  const scratchBytes = transposeB ? Math.min(m, 2) * group * pair * 4 : 0
  return { name, wat, items: batch.count * blocks, scratchBytes }
}

/** Rows of B in a block: 64 KiB, or less if there would be too few blocks for the threads. */
function rowsInBlock(n: number, k: number, threads: number): number {
  return roundUp(Math.max(1, Math.min(2 ** 14 / k, n / (4 * threads))), group)
}

/** Columns in a block: enough of each row of B to read it at full speed. */
function columnsInBlock(n: number, threads: number): number {
  return roundUp(Math.max(64, Math.min(1024, n / (4 * threads))), pair)
}

const blockHeader = `(param $a i32) (param $b i32) (param $c i32) (param $from i32) (param $columns i32)
    (param $scratch i32)`

const get = (local: string) => `(local.get $${local})`
const set = (local: string, value: string) => `(local.set $${local} ${value})`
/** Loads a v128 from `at` floats after an address. */
const load = (address: string, at: number, type = 'load') =>
  `(v128.${type} offset=${at * 4} align=4 ${get(address)})`
const addProduct = (fma: boolean, sum: string, a: string, b: string) =>
  set(sum, multiplyAdd(fma, get(a), get(b), get(sum)))
/** The text for each of the two vectors of a pair. */
const both = (text: (half: number) => string) => repeat(2, text)

/** The functions for a B that is stored [n, k]: dot products with four rows of B at a time. */
function dotFunctions(name: string, shape: MatrixVectorShape, fma: boolean): string {
  const { m, n, k, rowStrideA, rowStrideB, rowStrideC, addend } = shape
  const rest = n % group
  // The sums of two rows of A fit in the registers.
  const heights = Array.from({ length: Math.ceil(m / 2) }, (_, i) => Math.min(2, m - 2 * i))
  const dots = (count: number) =>
    repeat(
      heights.length,
      i => `(call $${name}.dots${heights[i]}x${count}
        ${add('a', 2 * i * rowStrideA * 4)} (local.get $b) ${add('c', 2 * i * rowStrideC * 4)}
        ${add('from', 2 * i * (addend?.rowStride ?? 0) * 4)} (local.get $scratch))`,
    )
  const counts = [...(n >= group ? [group] : []), ...(rest > 0 ? [rest] : [])]
  // The processor itself prefetches longer rows.
  const ahead = Math.floor(prefetchBytes / (group * k * 4)) * group
  const prefetch =
    ahead > 0
      ? `
      (if (i32.eqz ${remainder('row', ahead)}) (then
        ${call(`${name}.prefetch`, 'b', min('columns', ahead), rowStrideB * 4, k * 4)}))
      ${advance('row', group)}`
      : ''
  return `
  ${ahead > 0 ? prefetchFunction(`${name}.prefetch`) : ''}
  ${counts
    .flatMap(count =>
      [...new Set(heights)].map(rows => dotFunction(`${name}.dots${rows}x${count}`, shape, rows, count, fma)),
    )
    .join('\n')}
  (func $${name}.block ${blockHeader}
    ${locals('i32', 'row')}
    (block $done (loop $next
      (br_if $done (i32.lt_u (local.get $columns) (i32.const ${group})))
      ${prefetch}
      ${n >= group ? dots(group) : ''}
      ${advance('b', group * rowStrideB * 4)}
      ${advance('c', group * 4)}
      ${advance('from', group * 4)}
      ${advance('columns', -group)}
      (br $next)))
    ${rest > 0 ? `(if (local.get $columns) (then ${dots(rest)}))` : ''})`
}

/** `(func $name a b c from scratch)`: the dot products of `rows` rows of A with `count` rows of B, at most four. */
function dotFunction(
  name: string,
  { k, rowStrideA, rowStrideB, rowStrideC, addend }: MatrixVectorShape,
  rows: number,
  count: number,
  fma: boolean,
): string {
  const each = (text: (row: number, of: number) => string) =>
    repeat(rows, row => repeat(count, of => text(row, of)))
  const operands = (at: number, half: number, type = 'load') => `
      ${repeat(rows, row => set(`a${row}_${half}`, load('a', row * rowStrideA + at, type)))}
      ${repeat(count, of => set(`b${of}_${half}`, load('b', of * rowStrideB + at, type)))}`
  // The last k % 8 steps have separate sums: the loop's sums become 256-bit only if all of them are pairs.
  const leftover = (at: number, type: string) => `${operands(at, 0, type)}
      ${each((row, of) => addProduct(fma, `rest${row}_${of}`, `a${row}_0`, `b${of}_0`))}`
  const place = (row: number, of: number, half: number) => (row * count + of) * pair + 4 * half
  const kept = (row: number, of: number, half: number) => load('scratch', place(row, of, half))
  const store = (row: number) => {
    const from = row * (addend?.rowStride ?? 0)
    if (count === group) {
      const sum = addend ? `(f32x4.add ${load('from', from)} (local.get $total))` : '(local.get $total)'
      return `(v128.store offset=${row * rowStrideC * 4} align=4 (local.get $c) ${sum})`
    }
    return repeat(count, of => {
      const total = `(f32x4.extract_lane ${of} (local.get $total))`
      const before = `(f32.load offset=${(from + of) * 4} (local.get $from))`
      const sum = addend ? `(f32.add ${before} ${total})` : total
      return `(f32.store offset=${(row * rowStrideC + of) * 4} (local.get $c) ${sum})`
    })
  }
  return `
  (func $${name} (param $a i32) (param $b i32) (param $c i32) (param $from i32) (param $scratch i32)
    ${locals('i32', 'end')} ${locals('v128', 'dot0 dot1 dot2 dot3 low high total')}
    ${repeat(rows, row => locals('v128', `a${row}_0 a${row}_1`))}
    ${repeat(count, of => locals('v128', `b${of}_0 b${of}_1`))}
    ${each((row, of) => locals('v128', `sum${row}_${of}_0 sum${row}_${of}_1 rest${row}_${of}`))}
    (local.set $end ${add('b', (k - (k % pair)) * 4)})
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $b) (local.get $end)))
      ${both(half => operands(4 * half, half))}
      ${each((row, of) =>
        both(half => addProduct(fma, `sum${row}_${of}_${half}`, `a${row}_${half}`, `b${of}_${half}`)),
      )}
      ${advance('a', pair * 4)}
      ${advance('b', pair * 4)}
      (br $next)))
    ${each((row, of) =>
      both(
        half => `(v128.store offset=${place(row, of, half) * 4}
          (local.get $scratch) ${get(`sum${row}_${of}_${half}`)})`,
      ),
    )}
    ${k % pair >= 4 ? leftover(0, 'load') : ''}
    ${repeat(k % 4, i => leftover((k % pair) - (k % 4) + i, 'load32_zero'))}
    ${repeat(
      rows,
      row => `
      ${repeat(count, of =>
        set(
          `dot${of}`,
          `(f32x4.add (f32x4.add ${kept(row, of, 0)} ${kept(row, of, 1)}) ${get(`rest${row}_${of}`)})`,
        ),
      )}
      ${addLanes('low', [0, 4, 1, 5], [2, 6, 3, 7], 'dot0', 'dot1')}
      ${addLanes('high', [0, 4, 1, 5], [2, 6, 3, 7], 'dot2', 'dot3')}
      ${addLanes('total', [0, 1, 4, 5], [2, 3, 6, 7], 'low', 'high')}
      ${store(row)}`,
    )})`
}

/** Sets a local to the sum of two shuffles of two other locals. */
function addLanes(
  sum: string,
  first: readonly number[],
  second: readonly number[],
  a: string,
  b: string,
): string {
  return set(sum, `(f32x4.add ${shuffle(first, a, b)} ${shuffle(second, a, b)})`)
}

/** The functions for a B that is stored [k, n]: they add multiples of its rows to the rows of C, four rows at a time. */
function sumFunctions(name: string, shape: MatrixVectorShape, fma: boolean): string {
  const { m, k, rowStrideB, rowStrideC, addend } = shape
  const rest = k % group
  const begin = (row: number) => {
    const to = add('c', row * rowStrideC * 4)
    return addend
      ? `(memory.copy ${to} ${add('from', row * addend.rowStride * 4)} (local.get $bytes))`
      : `(memory.fill ${to} (i32.const 0) (local.get $bytes))`
  }
  const addRows = (count: number) =>
    `(call $${name}.add${count} (local.get $a) (local.get $b) (local.get $c) (local.get $bytes))`
  return `
  ${k >= group ? addFunction(`${name}.add${group}`, shape, group, fma) : ''}
  ${rest > 0 ? addFunction(`${name}.add${rest}`, shape, rest, fma) : ''}
  (func $${name}.block ${blockHeader}
    ${locals('i32', 'bytes end')}
    (local.set $bytes ${mul('columns', 4)})
    ${repeat(m, begin)}
    (local.set $end ${add('a', (k - rest) * 4)})
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $a) (local.get $end)))
      ${k >= group ? addRows(group) : ''}
      ${advance('a', group * 4)}
      ${advance('b', group * rowStrideB * 4)}
      (br $next)))
    ${rest > 0 ? addRows(rest) : ''})`
}

/** `(func $name a b c bytes)`: adds `count` rows of B to each row of C, each times the matching element of A's row. */
function addFunction(
  name: string,
  { m, n, rowStrideA, rowStrideB, rowStrideC }: MatrixVectorShape,
  count: number,
  fma: boolean,
): string {
  const each = (text: (row: number, of: number) => string) =>
    repeat(m, row => repeat(count, of => text(row, of)))
  // The revectorizer joins operations if all loads come first, then the arithmetic, then the stores.
  const steps = (floats: number, loading: string, storing: string) => {
    const halves = (text: (half: number) => string) => repeat(floats === pair ? 2 : 1, text)
    return `
    (block $done (loop $next
      (br_if $done (i32.lt_u (local.get $bytes) (i32.const ${floats * 4})))
      ${repeat(count, of =>
        halves(half => set(`b${of}_${half}`, load('b', of * rowStrideB + 4 * half, loading))),
      )}
      ${repeat(m, row =>
        halves(half => set(`c${row}_${half}`, load('c', row * rowStrideC + 4 * half, loading))),
      )}
      ${each((row, of) =>
        halves(half => addProduct(fma, `c${row}_${half}`, `a${row}_${of}`, `b${of}_${half}`)),
      )}
      ${repeat(m, row =>
        halves(
          half => `(v128.${storing} offset=${(row * rowStrideC + 4 * half) * 4} align=4
            ${floats === 1 ? '0' : ''} (local.get $c) ${get(`c${row}_${half}`)})`,
        ),
      )}
      ${advance('b', floats * 4)}
      ${advance('c', floats * 4)}
      ${advance('bytes', -floats * 4)}
      (br $next)))`
  }
  return `
  (func $${name} (param $a i32) (param $b i32) (param $c i32) (param $bytes i32)
    ${each((row, of) => locals('v128', `a${row}_${of}`))}
    ${repeat(count, of => locals('v128', `b${of}_0 b${of}_1`))}
    ${repeat(m, row => locals('v128', `c${row}_0 c${row}_1`))}
    ${each((row, of) => set(`a${row}_${of}`, load('a', row * rowStrideA + of, 'load32_splat')))}
    ${steps(pair, 'load', 'store')}
    ${n % pair > 0 ? steps(1, 'load32_zero', 'store32_lane') : ''})`
}
