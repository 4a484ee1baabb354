/** What the forward and the backward pass of attention share: shapes, block sizes, operands and scratch memory. */
import { deepestBlock } from '../matmul/tiling.ts'
import { type MicroKernel, longestSum, roundUp } from '../matmul/micro-kernel.ts'
import { add, call, divide, locals, loop, mul, remainder, sub } from '../wat.ts'

/** The shape of one attention. Strides are in floats, and every operand is a view of a row-major [batch * length, .]. */
export interface AttentionShape {
  readonly batch: number
  readonly heads: number
  readonly length: number
  /** Columns of q and k per head; head h begins at column h * keyDim. */
  readonly keyDim: number
  /** Columns of v and out per head; head h begins at column h * valueDim. */
  readonly valueDim: number
  /** Not zero. */
  readonly scale: number
  /** Whether there is a position bias, with one slope per head. */
  readonly slope: boolean
  readonly rowStride: { readonly q: number; readonly k: number; readonly v: number; readonly out: number }
}

/** Row strides of the gradients, as in AttentionShape. */
export interface AttentionGradientStrides {
  readonly dOut: number
  readonly dq: number
  readonly dk: number
  readonly dv: number
}

/** A score that becomes -Infinity once it is multiplied by the scale, which is not zero. */
export const maskedBefore = (scale: number): number => (scale > 0 ? -Infinity : Infinity)

/** Whether sums over keys or queries are so long that each block needs a partial sum of its own, to keep precision. */
export const isLong = (length: number): boolean => length > longestSum

/** Weights below 2^-64 become 0. Otherwise their products would be subnormal numbers, which are slow. */
export const negligible = -64

/** The most query rows in a block: their scores should stay in the L2 cache. */
const maxBlock = 48

/** Block sizes, and the paddings that allow computing whole tiles. */
export function blockSizes({ length, keyDim, valueDim }: AttentionShape, tile: MicroKernel) {
  const balanced = (most: number, multiple: number) =>
    roundUp(Math.ceil(length / Math.ceil(length / most)), multiple)
  /** Query rows in a block. */
  const block = balanced(maxBlock, tile.rows)
  /** Keys in a block, whose values are summed together; blocks of long sequences are smaller, which is more precise. */
  const kBlock = Math.min(length, balanced(isLong(length) ? deepestBlock / 2 : deepestBlock, 4))
  /** Number of zeros after a row's last score, as far as its tile or its last 8 lanes may reach. */
  const zeros = Math.max(8, roundUp(tile.rows, 4))
  /** Distance between rows of scores. Not a multiple of 256 bytes, so that rows do not compete for a cache set. */
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

export type BlockSizes = ReturnType<typeof blockSizes>

/** Allocates scratch memory. Addresses are i32 expressions and multiples of 64. */
export class Scratch {
  bytes = 0

  floats(count: number): string {
    const address = add('scratch', this.bytes)
    this.bytes += roundUp(count * 4, 64)
    return address
  }
}

/** The part of a kernel's name that stands for its shape. */
export function shapeName({
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

/** Addresses of a kernel's operands by their names, which are given in the order of its arguments. */
export function operandsOf<Name extends string>(names: readonly Name[]): (name: Name) => string {
  return name => {
    const index = names.indexOf(name)
    if (index < 0) throw new Error(`the kernel has no operand ${name}`)
    return `(i32.load offset=${index * 4} (local.get $arguments))`
  }
}

/** The address of row $row of an operand. */
export function rowOf(operand: string, stride: number): string {
  return add(operand, mul('row', stride * 4))
}

/** Points a local at the first row of an operand that belongs to $item, which is batch * heads + head. */
export function headPointer(
  local: string,
  operand: string,
  { heads, length }: AttentionShape,
  stride: number,
  width: number,
): string {
  const sequence = mul(divide('item', heads), length * stride * 4)
  return `(local.set $${local} ${add(operand, sequence, mul(remainder('item', heads), width * 4))})`
}

/** Reads the head's slope from its operand, and writes the table of distances that it multiplies. */
export function loadSlope(name: string, operand: string, heads: number, distances: string): string {
  return `
    (local.set $slope (f32.load ${add(operand, mul(remainder('item', heads), 4))}))
    ${call(`${name}.distances`, distances)}`
}

/**
 * `(func $name table)` writes the distances j - i from a query to its keys. One table serves all i: entry
 * length - 1 + j - i.
 */
export function distancesFunction(name: string, count: number, length: number): string {
  return `
  (func $${name} (param $table i32) ${locals('i32', 'i')}
    ${loop('i', 0, count, 1)`
      (f32.store ${add('table', mul('i', 4))}
        (f32.convert_i32_s ${sub('i', length - 1)}))`})`
}
