// The tiles of a product: which workgroup makes which, and functions that read operands.
import type { Matmul } from '../../../compiler/program.ts'
import { type Factor, plus, times } from './operands.ts'
import type { MatmulPlan } from './tiling.ts'

/** Workgroups go through the columns of a band of this many rows of tiles, so that the cache holds what tiles share. */
const bandTiles = 16

/** The workgroups of a product: one for each tile, of each slice, of each matrix of the batch. */
export interface Grid {
  readonly workgroups: number
  /**
   * WGSL that declares `batch`, the tile's first row `row0` and column `column0`, the range of k from `k_start` to
   * `k_end`, and `steps`, the number of depths in it.
   */
  readonly position: string
  /** WGSL for the batch index of c, or of a slice's partial sums. */
  readonly target: string
  /** Whether the last depth may go beyond k_end. */
  readonly hasTail: boolean
}

export function tileGrid({ batch, m, n, k }: Matmul, { tile, slices, sliceDepth }: MatmulPlan): Grid {
  const down = Math.ceil(m / tile.rows)
  const across = Math.ceil(n / tile.columns)
  const tiles = down * across
  const band = Math.min(bandTiles, down)
  const height = down % band === 0 ? `${band}u` : `min(${band}u, ${down}u - band * ${band}u)`
  const position = `
  let batch = ${batch === 1 ? '0u' : `group / ${tiles}u % ${batch}u`};
  let slice = ${slices === 1 ? '0u' : `group / ${tiles * batch}u`};
  let tile_index = group % ${tiles}u;
  let band = tile_index / ${band * across}u;
  let in_band = tile_index % ${band * across}u;
  let height = ${height};
  let row0 = (band * ${band}u + in_band % height) * ${tile.rows}u;
  let column0 = in_band / height * ${tile.columns}u;
  let k_start = ${times('slice', slices === 1 ? 0 : sliceDepth)};
  let k_end = ${slices === 1 ? `${k}u` : `min(k_start + ${sliceDepth}u, ${k}u)`};
  let steps = (k_end - k_start + ${tile.depth - 1}u) / ${tile.depth}u;`
  return {
    workgroups: slices * batch * tiles,
    position,
    target: slices === 1 ? 'batch' : `(slice * ${batch}u + batch)`,
    hasTail: k % tile.depth !== 0,
  }
}

/**
 * WGSL functions that read four neighbouring elements of an operand, as vec4f or as they are stored:
 *   a_start(batch, across)            where a line starts; across: a row of a, a column of b,
 *   a_whole(start, across, k)         elements k to k + 3 of a line, or across to across + 3 at one k,
 *   a_tail(start, across, k, k_end)   the same, with zeros from k_end on.
 * Beyond the matrix' rows or columns they read some element within. The sums made of those are not stored.
 */
export function fetchFunctions(operand: Factor, tileExtent: number, type: 'f32' | 'stored'): string {
  const { side, matrix, lanes, isAlongK, extent, lineStride, batchStride, array } = operand
  const vector = `vec4<${type === 'f32' ? 'f32' : operand.type}>`
  const isRagged = extent % tileExtent !== 0
  const isSplit = !isAlongK && extent % 4 !== 0
  const clamped = (last: number) => (isRagged ? `min(across, ${last}u)` : 'across')
  const line = isAlongK
    ? times(extent > 1 ? clamped(extent - 1) : '0u', lineStride)
    : isSplit
      ? '0u'
      : clamped(extent - 4)
  const parts = Array.from({ length: 4 / lanes }, (_, i) => i * lanes)
  const divided = (at: string) => (lanes === 1 ? at : `(${at}) / ${lanes}u`)
  const element = (part: number): string => {
    const shift = part === 0 ? '' : ` + ${part}u`
    return isSplit
      ? `${array}[${divided(`at + min(across${shift}, ${extent - lanes}u)`)}]`
      : `${array}[${divided(`at${shift}`)}]`
  }
  const joined = (texts: readonly string[]): string =>
    `${vector}(${lanes === 4 ? texts[0] : `vec4(${texts.join(', ')})`})`
  const zero = lanes === 1 ? `${operand.type}()` : `vec${lanes}<${operand.type}>()`
  const at = `let at = start + ${isAlongK ? 'k' : lineStride === 0 ? '0u' : times('k', lineStride)};`
  const tail = isAlongK
    ? `${parts
        .map(
          part => `var part${part} = ${zero};
  if (k + ${part}u < k_end) { part${part} = ${element(part)}; }`,
        )
        .join('\n  ')}
  return ${joined(parts.map(part => `part${part}`))};`
    : `if (k >= k_end) { return ${vector}(); }
  return ${joined(parts.map(element))};`
  return `
fn ${side}_start(batch: u32, across: u32) -> u32 {
  return ${plus(`${matrix.offset}u`, times('batch', batchStride), line)};
}
fn ${side}_whole(start: u32, across: u32, k: u32) -> ${vector} {
  ${at}
  return ${joined(parts.map(element))};
}
fn ${side}_tail(start: u32, across: u32, k: u32, k_end: u32) -> ${vector} {
  ${at}
  ${tail}
}`
}
