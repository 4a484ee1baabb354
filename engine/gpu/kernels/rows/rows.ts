import { costOf } from '../../../compiler/cost.ts'
import type { RowProgram } from '../../../compiler/program.ts'
import type { HorizontalFusion } from '../../passes/horizontal-fusion.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from '../kernel.ts'
import { rowKernel } from './row-kernel.ts'
import { planRows } from './row-plan.ts'
import { divideLongRows, simplify } from '../../passes/row-programs.ts'
import { splitByBuffers } from './row-split.ts'

/** A row program as those that the GPU is to run: mostly one, itself. */
export function rowPrograms(work: RowProgram, target: Target): RowProgram[] {
  if (work.rows === 0 || work.columns === 0) return []
  return divideLongRows(simplify(work))
    .flatMap(program => splitByBuffers(program, target.bindings))
    .map(simplify)
}

/** The kernels of a row program: mostly one. */
export function rowDispatches(work: RowProgram, typeOf: TypeOf, target: Target): Dispatch[] {
  return rowPrograms(work, target).map(program => rowDispatch({ works: [program], program }, typeOf, target))
}

/** The kernel of a program that stands for some others, or for itself. */
export function rowDispatch(
  { works, program, batch }: HorizontalFusion,
  typeOf: TypeOf,
  target: Target,
): Dispatch {
  const costs = works.map(work => costOf(work, buffer => bytesOf[typeOf(buffer)]))
  return {
    ...rowKernel(program, planRows(program, target), typeOf, target, batch),
    bytes: costs.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}
