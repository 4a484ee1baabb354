/** Chooses the blocks that a matrix product is cut into, by a model of the cycles that they take. */
import { type MicroKernel, longestSum, roundUp } from './micro-kernel.ts'

/** How a product is cut into blocks. Only kBlock affects the result, and only for sums longer than longestSum. */
export interface Tiling {
  /** Steps of k that a panel of B holds. */
  readonly kBlock: number
  /** Rows of an item's block of C. */
  readonly rowBlock: number
  /** Columns of an item's block of C. */
  readonly columnBlock: number
  /** How many of its rows an item computes at a time, a multiple of tile.rows; by default, all. */
  readonly rowStep?: number
}

/**
 * The most steps of k in a block. A panel of B this deep does not fit in L1, but it comes from L2 fast enough, and each
 * additional block costs a start, an end, and a pass over C.
 */
export const deepestBlock = 768

/**
 * The same for products that share their row blocks with no other instruction: only a few rows of A have to stay in L2
 * beside B. Where A has to be packed, shallower blocks touch fewer pages and cache lines. For a very long k, they are
 * also more exact: rounding errors are smallest if there are about as many blocks as terms in each.
 */
const [deepestAlone, deepestPackedA] = [1024, 384]

/** How many floats of a packed block of A, and of B where items pack it, should stay in the L2 cache. */
const [mostOfA, mostOfB] = [2 ** 16, 2 ** 18]

/** The size of k-blocks: equal parts of k, each a multiple of `multiple` (the rows that are packed at a time). */
export function kBlockOf(k: number, multiple: number, deepest = deepestBlock): number {
  return Math.min(k, roundUp(Math.ceil(k / Math.ceil(k / deepest)), multiple))
}

/**
 * Chooses the blocks of a product for a number of threads, and whether its items pack B (packsB).
 * usesOfB: how many products share B if it is packed beforehand. parts: how many similar products the threads compute at
 * the same time.
 */
export function chooseTiling(
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
): Tiling & { readonly packsB: boolean } {
  const { m, n, k, transposeA, transposeB, batch, usesOfB, parts = 1 } = shape
  const kBlock = kBlockOf(k, kMultiple, transposeA || k > 8 * longestSum ? deepestPackedA : deepestAlone)
  // Cycles to fetch an element of a matrix, from the level where it fits: L2, L3, or memory.
  const fetch = (elements: number) => (elements <= 2 ** 18 ? 0.1 : elements <= 2 ** 23 ? 0.7 : 2)
  // The processor prefetches rows of A; those of Aᵀ have to be packed.
  const columnOfA = transposeA ? fetch(m * k) + 1 : fetch(m * k) / 2
  const rowOfB = fetch(k * n)
  // Packing beforehand moves B through memory once more; each thread packs its share and waits for the others.
  const packBefore = (7 * n * rowOfB) / threads / usesOfB + 20_000 / k
  // Parts of rows of B take longer to fetch than whole rows.
  const packRow = (columns: number) => (transposeB ? 1.5 : columns < n ? 1 + rowOfB / 2 : 1)
  const mostRows = Math.min(roundUp(128, tile.rows), Math.floor(mostOfA / kBlock))
  let best: (Tiling & { readonly packsB: boolean }) | undefined
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
        // Threads seldom run at the same speed: at the end they wait for part of an item.
        const rounds = parts > 1 ? items / threads + 0.25 / parts : Math.ceil(items / threads) + 0.25
        const cost = rounds * cycles + (packsB ? 0 : batch * packBefore)
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
  if (!best) throw new Error('the product has no elements')
  return best
}

/** Sizes of equal blocks that an extent can be cut into: multiples of `multiple`, and at least `least`. */
function blocksOf(extent: number, multiple: number, least: number): Set<number> {
  const blocks = new Set([roundUp(extent, multiple)])
  for (let parts = 2; extent / parts >= least; parts = Math.ceil(parts * (parts < 32 ? 1.01 : 1.2))) {
    blocks.add(roundUp(Math.ceil(extent / parts), multiple))
  }
  return blocks
}
