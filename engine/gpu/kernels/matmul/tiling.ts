import type { Matmul } from '../../../compiler/program.ts'
import type { Target } from '../kernel.ts'

/** The part of c that a workgroup makes, and how it goes through k. */
export interface Tile {
  readonly rows: number
  readonly columns: number
  /** Steps of k that are in workgroup memory at a time. */
  readonly depth: number
  /** 2: the next depth is put into workgroup memory while this one is multiplied. */
  readonly stages: 1 | 2
}

/** How a product is cut. */
export interface MatmulPlan {
  /** Multiplied by subgroups as matrices, or by each invocation as numbers. */
  readonly form: 'matrices' | 'numbers'
  readonly tile: Tile
  /** k is cut into so many slices, whose partial sums are added up in order by another kernel. */
  readonly slices: number
  /** Steps of k in a slice: a multiple of the tile's depth. */
  readonly sliceDepth: number
}

/** Subgroups of the matrix form, and the blocks of its shape that each of them sums up. */
export interface SubgroupLayout {
  /** Subgroups below each other and side by side. */
  readonly down: number
  readonly across: number
  readonly blockRows: number
  readonly blockColumns: number
  /** Invocations. */
  readonly size: number
  /** Whether there are exactly as many subgroups as are reckoned with. */
  readonly isFixed: boolean
  /**
   * Blocks side by side whose sums pass through workgroup memory at a time, of each subgroup; and these sums'
   * number.
   */
  readonly passing: number
  readonly passingElements: number
}

type MatrixShape = NonNullable<Target['subgroupMatrix']>

/**
 * Elements of f16 by which lines in workgroup memory are longer: 16 bytes, so that eight lines start in
 * different banks.
 */
export const matrixPadding = 8

/** Tiles by rows and columns, the larger ones first. */
const sizes = [
  [128, 128],
  [128, 64],
  [64, 128],
  [64, 64],
  [64, 32],
  [32, 64],
  [32, 32],
] as const

const unevenly = (a: number, b: number) => Math.ceil(a / b)

/**
 * How subgroups share a tile: each of 128 x 128's eight makes 64 x 32, else there are four. Undefined when
 * that does not work.
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
  // Drivers that can do with many widths mostly take 32.
  const width = Math.min(Math.max(32, subgroups.smallest), subgroups.largest)
  const size = unevenly(down * across * width, subgroups.largest) * subgroups.largest
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

/** Sums in workgroup memory on their way to c, where one block of each subgroup does not take more: 8 KiB. */
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

/** Rows or columns of c that an invocation of the number form makes. */
export const threadExtent = (extent: number): 4 | 8 => (extent >= 64 ? 8 : 4)

/** Invocations of a tile in the number form. */
export const numberThreads = ({ rows, columns }: Pick<Tile, 'rows' | 'columns'>): number =>
  (rows / threadExtent(rows)) * (columns / threadExtent(columns))

/** Depths and stages in the order of preference. */
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

/**
 * A GPU to choose tiles for: NVIDIA's H100. On smaller ones there are more slices and smaller tiles than they
 * need.
 */
const processors = 132
/** Invocations that keep a processor busy, while some wait for others. */
const busy = 512
/** Multiplications that a processor does in a cycle, and bytes that it gets from memory. */
const rates = { matrices: 1024, numbers: 128, bytes: 16 }
/** Cycles that one more dispatch takes. */
const dispatchCycles = 5000
/**
 * Steps of k in a slice of the number form, where partial sums have room: longer sums lose digits. The matrix form's
 * operands are rounded to f16 and lose more by that.
 */
const deepestSlice = 2 ** 13
/** Bytes that partial sums may take. */
const mostPartialBytes = 64 * 2 ** 20

/**
 * Chooses the tile, and how many slices k is cut into, by an estimate of cycles: larger tiles read less and
 * smaller ones keep more processors busy. It depends on the shape and the target alone, so the order of sums
 * does as well.
 */
export function matmulPlan(work: Matmul, target: Target): MatmulPlan {
  const { batch, m, n, k } = work
  const form = target.subgroupMatrix ? 'matrices' : 'numbers'
  let best: { plan: MatmulPlan; cycles: number; isTooDeep: boolean } | undefined
  for (const tile of tiles(work, target, form)) {
    const { rows, columns, depth } = tile
    const count = batch * unevenly(m, rows) * unevenly(n, columns)
    const threads = threadsOf(tile, target, form)
    const rate = rates[form] / (1 + 16 / rows + 16 / columns)
    const steps = unevenly(k, depth)
    for (let wanted = 1; wanted <= 64; wanted++) {
      const sliceDepth = unevenly(steps, wanted) * depth
      const slices = unevenly(k, sliceDepth)
      const partialBytes = slices * batch * m * n * 4
      if (slices !== wanted) continue
      if (slices > 1 && (sliceDepth < 128 || partialBytes > mostPartialBytes)) break
      const isTooDeep = form === 'numbers' && sliceDepth > deepestSlice
      if (best && isTooDeep && !best.isTooDeep) continue
      const rounds = Math.max(unevenly(count * slices, processors), busy / threads)
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
  // Subgroups of any width do as much as those of 32.
  return layout ? layout.down * layout.across * 32 : numberThreads(tile)
}

/** The tiles that fit the target, each with the deepest steps that do. */
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
  // Few invocations, as where subgroups are narrow, would load much each: code that drivers take long to compile.
  if (!layout || depth > Math.max(shape.k, layout.size / 4)) return false
  const elements = matrixTileElements(tile, { a: !a.transposed, b: b.transposed })
  // Sums may leave through workgroup memory; a word says how many subgroups there are.
  const sums = layout.passingElements * 4 + (layout.isFixed ? 0 : 4)
  return (elements.a + elements.b) * 2 * stages + sums <= target.workgroupBytes
}
