// Chooses how a product is cut into tiles and slices.
import type { Matmul } from '../../../compiler/program.ts'
import type { Target } from '../kernel.ts'

/** The part of c that a workgroup computes, and how it goes through k. */
export interface Tile {
  readonly rows: number
  readonly columns: number
  /** Steps of k that workgroup memory holds at a time. */
  readonly depth: number
  /** 2: workgroup memory receives the next depth while this one is multiplied. */
  readonly stages: 1 | 2
}

/** How a product is cut into tiles and slices. */
export interface MatmulPlan {
  /** Whether subgroups multiply matrices, or each invocation multiplies numbers. */
  readonly form: 'matrices' | 'numbers'
  readonly tile: Tile
  /** The number of slices that k is cut into. Another kernel adds up their partial sums in order. */
  readonly slices: number
  /** Steps of k in a slice: a multiple of the tile's depth. */
  readonly sliceDepth: number
}

/** The subgroups of the matrix form, and the blocks of sums that each has. A block has the shape of a subgroup matrix. */
export interface SubgroupLayout {
  /** The numbers of subgroups below each other, and side by side. */
  readonly down: number
  readonly across: number
  readonly blockRows: number
  readonly blockColumns: number
  /** Invocations. */
  readonly size: number
  /** Whether the workgroup has exactly this many subgroups, whatever size the driver chooses for them. */
  readonly isFixed: boolean
  /**
   * Blocks side by side that each subgroup passes through workgroup memory at a time, and the number of their sums in
   * all subgroups.
   */
  readonly passing: number
  readonly passingElements: number
}

type MatrixShape = NonNullable<Target['subgroupMatrix']>

/** Padding of lines in workgroup memory, in elements of f16: with 16 bytes, eight lines start in different banks. */
export const matrixPadding = 8

/** Rows and columns of tiles, the larger ones first. */
const sizes = [
  [128, 128],
  [128, 64],
  [64, 128],
  [64, 64],
  [64, 32],
  [32, 64],
  [32, 32],
] as const

const ceilDivide = (a: number, b: number) => Math.ceil(a / b)

/**
 * How subgroups share a tile: a tile of 128 x 128 has eight, each with 64 x 32 of it; other tiles have four. Undefined if
 * the tile does not divide so, or the target does not allow it.
 */
export function subgroupLayout(
  { rows, columns }: Pick<Tile, 'rows' | 'columns'>,
  shape: MatrixShape,
  target: Target,
): SubgroupLayout | undefined {
  const { subgroups } = target
  if (!subgroups) return undefined
  const [down, across] = rows * columns === 128 * 128 ? [2, 4] : [2, 2]
  const blockRows = rows / down / shape.m
  const blockColumns = columns / across / shape.n
  if (!Number.isInteger(blockRows) || !Number.isInteger(blockColumns)) return undefined
  // Drivers that support many widths mostly choose 32.
  const width = Math.min(Math.max(32, subgroups.smallest), subgroups.largest)
  const size = ceilDivide(down * across * width, subgroups.largest) * subgroups.largest
  if (size > target.workgroupSize) return undefined
  const isFixed = subgroups.smallest === subgroups.largest && size === down * across * width
  const elements = down * across * shape.m * shape.n
  const most = Math.max(1, Math.floor(mostPassing / elements))
  const passing = [4, 2, 1].find(blocks => blocks <= most && blockColumns % blocks === 0) ?? 1
  return {
    down,
    across,
    blockRows,
    blockColumns,
    size,
    isFixed,
    passing,
    passingElements: passing * elements,
  }
}

/** The most sums that pass through workgroup memory at a time, 8 KiB, unless one block of each subgroup has more. */
const mostPassing = 2048

/** Elements of a and of b in workgroup memory, in the matrix form. */
export const matrixTileElements = (
  { rows, columns, depth }: Tile,
  isAlongK: { a: boolean; b: boolean },
): { a: number; b: number } => {
  const elements = (extent: number, along: boolean) =>
    along ? extent * (depth + matrixPadding) : depth * (extent + matrixPadding)
  return { a: elements(rows, isAlongK.a), b: elements(columns, isAlongK.b) }
}

/** Rows or columns of c that an invocation of the number form computes. */
export const threadExtent = (extent: number): 4 | 8 => (extent >= 64 ? 8 : 4)

/** Invocations for a tile in the number form. */
export const numberThreads = ({ rows, columns }: Pick<Tile, 'rows' | 'columns'>): number =>
  (rows / threadExtent(rows)) * (columns / threadExtent(columns))

/** Depths and stages, the preferred ones first. */
const depths = {
  matrices: [
    [32, 2],
    [16, 2],
    [32, 1],
    [16, 1],
    [8, 2],
    [8, 1],
  ],
  numbers: [
    [16, 2],
    [8, 2],
    [16, 1],
    [8, 1],
  ],
} as const

/** Tiles are chosen for NVIDIA's H100, which has so many processors. Smaller GPUs would do with fewer slices and larger tiles. */
const processors = 132
/** Invocations that keep a processor busy while some of them wait for memory. */
const busy = 512
/** Multiplications of a processor in a cycle, and bytes that it reads from memory. */
const rates = { matrices: 1024, numbers: 128, bytes: 16 }
/** Cycles for one more dispatch. */
const dispatchCycles = 5000
/**
 * The most steps of k in a slice of the number form, if the partial sums fit: longer sums lose digits. The matrix form
 * loses more by rounding its operands to f16.
 */
const deepestSlice = 2 ** 13
/** The most bytes of partial sums. */
const mostPartialBytes = 64 * 2 ** 20

/**
 * Chooses the tile and the number of slices by an estimate of cycles: larger tiles read less, and smaller ones keep more
 * processors busy. The choice, and with it the order of sums, depends only on the shape and the target.
 */
export function matmulPlan(work: Matmul, target: Target): MatmulPlan {
  const { batch, m, n, k } = work
  const form = target.subgroupMatrix ? 'matrices' : 'numbers'
  let best: { plan: MatmulPlan; cycles: number; isTooDeep: boolean } | undefined
  for (const tile of tiles(work, target, form)) {
    const { rows, columns, depth } = tile
    const count = batch * ceilDivide(m, rows) * ceilDivide(n, columns)
    const threads = threadsOf(tile, target, form)
    const rate = rates[form] / (1 + 16 / rows + 16 / columns)
    const steps = ceilDivide(k, depth)
    for (let wanted = 1; wanted <= 64; wanted++) {
      const sliceDepth = ceilDivide(steps, wanted) * depth
      const slices = ceilDivide(k, sliceDepth)
      const partialBytes = slices * batch * m * n * 4
      if (slices !== wanted) continue
      if (slices > 1 && (sliceDepth < 128 || partialBytes > mostPartialBytes)) break
      const isTooDeep = form === 'numbers' && sliceDepth > deepestSlice
      if (best && isTooDeep && !best.isTooDeep) continue
      const rounds = Math.max(ceilDivide(count * slices, processors), busy / threads)
      const multiplying = (rounds * rows * columns * (sliceDepth + 32)) / rate
      const adding = slices > 1 ? dispatchCycles + (2 * partialBytes) / rates.bytes / processors : 0
      const cycles = multiplying + adding
      if (!best || cycles < best.cycles || (best.isTooDeep && !isTooDeep))
        best = { plan: { form, tile, slices, sliceDepth }, cycles, isTooDeep }
    }
  }
  if (!best) throw new Error(`no tile of a matrix product fits this GPU's ${target.workgroupBytes} bytes`)
  return best.plan
}

function threadsOf(tile: Tile, target: Target, form: MatmulPlan['form']): number {
  const shape = target.subgroupMatrix
  const layout = shape && form === 'matrices' ? subgroupLayout(tile, shape, target) : undefined
  // Subgroups of any width do as much work as those of 32.
  return layout ? layout.down * layout.across * 32 : numberThreads(tile)
}

/** The tiles that fit the target, each with the preferred depth that fits. */
function tiles(work: Matmul, target: Target, form: MatmulPlan['form']): Tile[] {
  return sizes.flatMap(([rows, columns]) => {
    const found = depths[form]
      .map(([depth, stages]): Tile => ({ rows, columns, depth, stages }))
      .find(tile => fits(tile, work, target, form))
    return found ? [found] : []
  })
}

function fits(tile: Tile, { a, b }: Matmul, target: Target, form: MatmulPlan['form']): boolean {
  const { rows, columns, depth, stages } = tile
  if (form === 'numbers')
    return (
      (rows + columns) * depth * 4 * stages <= target.workgroupBytes &&
      numberThreads(tile) <= target.workgroupSize
    )
  const shape = target.subgroupMatrix
  if (!shape || depth % shape.k !== 0) return false
  const layout = subgroupLayout(tile, shape, target)
  // With few invocations, as in narrow subgroups, each would load so much that drivers take long to compile the code.
  if (!layout || depth > Math.max(shape.k, layout.size / 4)) return false
  const elements = matrixTileElements(tile, { a: !a.transposed, b: b.transposed })
  // Workgroup memory also holds the sums that pass through it, and the number of subgroups where that is not fixed.
  const sums = layout.passingElements * 4 + (layout.isFixed ? 0 : 4)
  return (elements.a + elements.b) * 2 * stages + sums <= target.workgroupBytes
}
