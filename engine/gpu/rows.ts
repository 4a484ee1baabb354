import type { RowProgram } from '../program.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
import { rowKernel } from './row-kernel.ts'
import { planRows } from './row-plan.ts'
import { divideLongRows, simplify } from './row-programs.ts'
import { splitByBuffers } from './row-split.ts'

/** The kernels of a row program: mostly one. */
export function rowDispatches(work: RowProgram, typeOf: TypeOf, target: Target): Dispatch[] {
  if (work.rows === 0 || work.columns === 0) return []
  return divideLongRows(simplify(work))
    .flatMap(program => splitByBuffers(program, target.bindings))
    .map(simplify)
    .map(program => rowKernel(program, planRows(program, target), typeOf, target))
}
