import type { Pausing } from '../../compiler/pauses.ts'
import type { Buffer, Instruction, Program, Work } from '../../compiler/program.ts'
import type { PackedPlace } from './packed-buffers.ts'
import { attentionDispatches } from '../kernels/attention/attention.ts'
import { type Step, isRowProgram } from './fusion-candidates.ts'
import { fuseHorizontally } from './horizontal-fusion.ts'
import type { ElementType, ProgramDispatch, Target, TypeOf } from '../kernels/kernel.ts'
import { matmulDispatches } from '../kernels/matmul/matmul.ts'
import { rowDispatch, rowPrograms } from '../kernels/rows/rows.ts'
import { rootsOf } from './row-programs.ts'
import { ScatterOrders, scatterDispatches } from '../kernels/scatter/scatter.ts'

/** A program as kernels of the GPU. */
export interface Lowered {
  /** In the order in which they run. */
  readonly dispatches: ProgramDispatch[]
  /** Of arenas, too, in which joined kernels have their memory. */
  readonly typeOf: TypeOf
  /** Where buffers lie in arenas. */
  readonly places: ReadonlyMap<Buffer, PackedPlace>
}

/**
 * Turns a program's instructions into kernels of the GPU. halves: the f16 copies of variables; placed: what lies in
 * arenas already, for other programs.
 */
export function* lower(
  { instructions }: Program,
  given: TypeOf,
  target: Target,
  halves: ReadonlyMap<Buffer, Buffer> = new Map(),
  placed: ReadonlyMap<Buffer, PackedPlace> = new Map(),
): Pausing<Lowered> {
  const orders = new ScatterOrders()
  const worksOf = (work: Work): Step['work'][] => {
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
    }
  }
  const steps: Step[] = []
  const madeFor = new Map<Step['work'], Instruction>()
  for (const instruction of instructions) {
    yield
    for (const made of worksOf(instruction.work)) {
      steps.push(stepOf(made))
      madeFor.set(made, instruction)
    }
    orders.forget(instruction.writes)
  }
  const places = new Map(placed)
  const joined = fuseHorizontally(steps, given, halves, places)
  const types = new Map<Buffer, ElementType>()
  for (const [root, { packed }] of places) types.set(packed.buffer, given(root))
  const typeOf: TypeOf = buffer => types.get(buffer.allocation) ?? given(buffer)
  const dispatches: ProgramDispatch[] = []
  for (const step of joined) {
    yield
    const works = 'program' in step ? step.works : [step.work]
    const instructions = works.flatMap(work => madeFor.get(work) ?? [])
    if ('program' in step) dispatches.push({ ...rowDispatch(step, typeOf, target), instructions })
    else if (!isRowProgram(step.work)) dispatches.push({ ...step.work, instructions })
    else {
      const alone = { works: [step.work], program: step.work }
      dispatches.push({ ...rowDispatch(alone, typeOf, target), instructions })
    }
  }
  return { dispatches, typeOf, places }
}

function stepOf(work: Step['work']): Step {
  if (!isRowProgram(work)) return { work, touches: new Set(work.buffers), writes: new Set(work.writes) }
  const writes = rootsOf({ values: [], stores: work.stores, columnSums: work.columnSums })
  return { work, touches: rootsOf(work), writes }
}
