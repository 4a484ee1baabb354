// Turns a program's instructions into the kernels that a GPU runs.
import type { Pausing } from '../../compiler/pauses.ts'
import type { Buffer, Instruction, Program, RowProgram, Work } from '../../compiler/program.ts'
import { costOf } from '../../compiler/cost.ts'
import { attentionDispatches } from '../kernels/attention/attention.ts'
import {
  type ElementType,
  type ProgramDispatch,
  type Target,
  type TypeOf,
  bytesOf,
} from '../kernels/kernel.ts'
import { matmulDispatches } from '../kernels/matmul/matmul.ts'
import { allocationsOf } from '../kernels/rows/analysis.ts'
import { rowDispatch } from '../kernels/rows/row-kernel.ts'
import { ScatterOrders, scatterDispatches } from '../kernels/scatter/scatter.ts'
import { type Step, isRowProgram } from './fusion-candidates.ts'
import { fuseHorizontally } from './horizontal-fusion.ts'
import type { PackedPlace } from './packed-buffers.ts'
import { rowPrograms } from './row-passes.ts'

/** A program as kernels of the GPU. */
export interface Lowered {
  /** In the order in which they run. */
  readonly dispatches: ProgramDispatch[]
  /** Knows packed buffers too. */
  readonly typeOf: TypeOf
  /** Where buffers are packed. */
  readonly places: ReadonlyMap<Buffer, PackedPlace>
}

/**
 * Turns a program's instructions into kernels of the GPU. halfCopies: the f16 copies of variables; placed: where buffers
 * are packed already, for other programs.
 */
export function* lower(
  { instructions }: Program,
  given: TypeOf,
  target: Target,
  halfCopies: ReadonlyMap<Buffer, Buffer> = new Map(),
  placed: ReadonlyMap<Buffer, PackedPlace> = new Map(),
): Pausing<Lowered> {
  const orders = new ScatterOrders()
  const lowerWork = (work: Work): Step['work'][] => {
    switch (work.kind) {
      case 'rows':
        return rowPrograms(work, target)
      case 'matmul':
        return matmulDispatches(work, given, target)
      case 'scatterAdd':
        return scatterDispatches(work, given, target, orders)
      case 'attention':
      case 'attentionGradient':
        return attentionDispatches(work, given, target)
      default:
        return work satisfies never
    }
  }
  const steps: Step[] = []
  const loweredFrom = new Map<Step['work'], Instruction>()
  for (const instruction of instructions) {
    yield
    for (const lowered of lowerWork(instruction.work)) {
      steps.push(stepOf(lowered))
      loweredFrom.set(lowered, instruction)
    }
    orders.forget(instruction.writes)
  }
  const places = new Map(placed)
  const fused = fuseHorizontally(steps, given, halfCopies, places)
  const types = new Map<Buffer, ElementType>()
  for (const [member, { packed }] of places) types.set(packed.buffer, given(member))
  const typeOf: TypeOf = buffer => types.get(buffer.allocation) ?? given(buffer)
  const bytesMoved = (work: RowProgram): number => costOf(work, buffer => bytesOf[typeOf(buffer)]).bytes
  const dispatches: ProgramDispatch[] = []
  for (const step of fused) {
    yield
    const works = 'program' in step ? step.works : [step.work]
    const instructions = works.flatMap(work => loweredFrom.get(work) ?? [])
    if ('program' in step) {
      // Without the gaps between packed operands.
      const bytes = step.works.reduce((sum, work) => sum + bytesMoved(work), 0)
      const dispatch = rowDispatch(step.program, typeOf, target, step.batch)
      dispatches.push({ ...dispatch, bytes, instructions })
    } else if (isRowProgram(step.work))
      dispatches.push({ ...rowDispatch(step.work, typeOf, target), instructions })
    else dispatches.push({ ...step.work, instructions })
  }
  return { dispatches, typeOf, places }
}

function stepOf(work: Step['work']): Step {
  if (!isRowProgram(work)) return { work, touches: new Set(work.buffers), writes: new Set(work.writes) }
  const writes = allocationsOf({ values: [], stores: work.stores, columnSums: work.columnSums })
  return { work, touches: allocationsOf(work), writes }
}
