// Horizontal fusion: equal row programs over different memory, such as an optimizer's many small updates, run as one
// kernel. Their operands are packed side by side, since a kernel can bind only a few buffers.
import type { Access, Buffer, RowProgram } from '../../compiler/program.ts'
import type { TypeOf } from '../kernels/kernel.ts'
import type { Batch } from '../kernels/rows/row-memory.ts'
import { type FusionCandidate, type Step, elementsOf } from './fusion-candidates.ts'
import { type PackedPlace, paddedSize } from './packed-buffers.ts'
import { type PackedOperand, Packing } from './packing.ts'
import { type StepGroup, groupSteps, isUpdate } from './step-groups.ts'

/** Several equal programs as one. */
export interface HorizontalFusion {
  readonly works: readonly RowProgram[]
  readonly program: RowProgram
  /** Set where the program is the first of a batch. */
  readonly batch?: Batch
}

/**
 * Fuses programs that compute the same, and moves them past steps that do not depend on them. places: where buffers are
 * packed already; the operands of fused programs are added.
 */
export function fuseHorizontally(
  steps: readonly Step[],
  typeOf: TypeOf,
  halfCopies: ReadonlyMap<Buffer, Buffer>,
  places: Map<Buffer, PackedPlace>,
): (Step | HorizontalFusion)[] {
  const groups = groupSteps(steps, typeOf)
  const packing = new Packing(steps, halfCopies, places)
  const fused = new Map<StepGroup, HorizontalFusion>()
  const several = groups.filter(({ candidates }) => candidates.length > 1)
  const size = ({ candidates }: StepGroup) => candidates.reduce((sum, { work }) => sum + elementsOf(work), 0)
  // Updates are packed first, then the groups with the most work. A later group has to fit what is packed by then.
  const [updates, others] = [several.filter(isUpdate), several.filter(group => !isUpdate(group))]
  for (const groups of [updates, others]) {
    for (const group of groups.sort((a, b) => size(b) - size(a))) {
      const fusion = fuse(group.candidates, packing)
      if (fusion) fused.set(group, fusion)
    }
  }
  return groups.flatMap((group): (Step | HorizontalFusion)[] => {
    const fusion = fused.get(group)
    return fusion ? [fusion] : group.steps
  })
}

/** One program for several, if their operands can be packed. */
function fuse(given: readonly FusionCandidate[], packing: Packing): HorizontalFusion | undefined {
  const packed = packing.pack(given)
  if (!packed) return undefined
  const { candidates, operands } = packed
  const works = candidates.map(({ work }) => work)
  return candidates[0].isFlat ? asOne(works, operands) : asBatch(works, operands)
}

/** Elementwise programs over neighbouring memory as one program over all of it. */
function asOne(works: readonly RowProgram[], operands: ReadonlyMap<Buffer, PackedOperand>): HorizontalFusion {
  const columns = works.reduce((sum, { columns }) => sum + paddedSize(columns), 0)
  return { works, program: { ...withOperands(works[0], operands), columns } }
}

/** The first of programs of the same shape, as a batch of all of them. */
function asBatch(
  works: readonly RowProgram[],
  operands: ReadonlyMap<Buffer, PackedOperand>,
): HorizontalFusion {
  const repeated = new Map(
    [...operands].map(([allocation, { buffer, start }]) => [
      buffer,
      { start, stride: paddedSize(allocation.size) },
    ]),
  )
  const atStart = new Map([...operands].map(([allocation, { buffer }]) => [allocation, { buffer, start: 0 }]))
  return {
    works,
    program: withOperands(works[0], atStart),
    batch: { count: works.length, operands: repeated },
  }
}

/** The same program with packed operands in place of some of its buffers. */
function withOperands(work: RowProgram, operands: ReadonlyMap<Buffer, PackedOperand>): RowProgram {
  const packed = (access: Access): Access => {
    const operand = access.buffer && operands.get(access.buffer.allocation)
    const moved = operand ? { buffer: operand.buffer, offset: access.offset + operand.start } : {}
    const { gather } = access
    const found = gather ? { gather: { ...gather, indices: packed(gather.indices) } } : {}
    return { ...access, ...moved, ...found }
  }
  return {
    ...work,
    values: work.values.map(value =>
      value.operation.kind === 'load'
        ? { ...value, operation: { ...value.operation, access: packed(value.operation.access) } }
        : value,
    ),
    stores: work.stores.map(store => ({ ...store, access: packed(store.access) })),
    columnSums: work.columnSums.map(sum => ({
      ...sum,
      buffer: operands.get(sum.buffer.allocation)?.buffer ?? sum.buffer,
    })),
  }
}
