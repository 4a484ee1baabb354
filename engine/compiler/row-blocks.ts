/** Divides instructions into blocks of rows, which threads share out. */
import type { Access, Buffer, Matrix, Work } from './program.ts'

/** How an instruction divides into blocks of rows. */
export interface RowPartition {
  readonly rows: number
  readonly rowBlock: number
  /**
   * The buffers of which a block of rows uses the same rows only, with how these lie in memory, as 'stride:first'. Of
   * other buffers it may use any part.
   */
  readonly aligned: ReadonlyMap<Buffer, string>
}

/**
 * Rows in a block. It depends on nothing but the number of rows, so that instructions over the same rows can be chained,
 * and sums over blocks are the same on any machine.
 */
export const rowBlockOf = (rows: number): number => (rows >= 4096 ? 96 : 48)

/** Fewer blocks than this are too few for threads to share. */
const leastBlocks = 8

/** How an instruction's work divides into blocks of rows; undefined if it does not. */
export function partitionOf(work: Work): RowPartition | undefined {
  const aligned = new Map<Buffer, string>()
  const everywhere = new Set<Buffer>()
  const touch = (buffer: Buffer | undefined, key: string | undefined) => {
    if (!buffer) return
    if (key === undefined || (aligned.has(buffer) && aligned.get(buffer) !== key)) everywhere.add(buffer)
    else aligned.set(buffer, key)
  }
  const finish = (rows: number): RowPartition | undefined => {
    const rowBlock = rowBlockOf(rows)
    if (rows < rowBlock * leastBlocks) return undefined
    for (const buffer of everywhere) aligned.delete(buffer)
    return { rows, rowBlock, aligned }
  }
  if (work.kind === 'rows') {
    const byRow = (access: Access) => touch(access.buffer, rowKey(access, work.rows))
    for (const { operation } of work.values) {
      if (operation.kind !== 'load') continue
      byRow(operation.access)
      if (operation.access.gather) byRow(operation.access.gather.indices)
    }
    for (const { access } of work.stores) byRow(access)
    for (const { buffer } of work.columnSums) touch(buffer, undefined)
    return finish(work.rows)
  }
  if (work.kind === 'matmul' && work.batch === 1 && !work.a.transposed) {
    const byRow = ({ buffer, offset, rowStride }: Matrix) => touch(buffer, keyOf(offset, rowStride))
    for (const matrix of [work.a, work.c, ...(work.addend ? [work.addend] : [])]) byRow(matrix)
    touch(work.b.buffer, undefined)
    return finish(work.m)
  }
  return undefined
}

const keyOf = (offset: number, stride: number): string => `${stride}:${Math.floor(offset / stride)}`

function rowKey({ offset, rowDims, gather }: Access, rows: number): string | undefined {
  if (gather || rowDims.length !== 1) return undefined
  const [[extent, stride]] = rowDims
  return extent === rows && stride > 0 ? keyOf(offset, stride) : undefined
}
