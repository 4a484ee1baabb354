// A row program on its way to kernels: the passes that it goes through.
import type { RowProgram } from '../../compiler/program.ts'
import type { Dispatch, Target, TypeOf } from '../kernels/kernel.ts'
import { rowDispatch } from '../kernels/rows/row-kernel.ts'
import { divideLongRows } from './divide-long-rows.ts'
import { simplify } from './simplify-rows.ts'
import { splitByBindings } from './split-by-bindings.ts'

/** The row programs that the GPU runs for one of the compiler's, usually a single one. */
export function rowPrograms(work: RowProgram, target: Target): RowProgram[] {
  if (work.rows === 0 || work.columns === 0) return []
  return divideLongRows(simplify(work))
    .flatMap(program => splitByBindings(program, target.bindings))
    .map(simplify)
}

/** The kernels of a row program, usually a single one. */
export const rowDispatches = (work: RowProgram, typeOf: TypeOf, target: Target): Dispatch[] =>
  rowPrograms(work, target).map(program => rowDispatch(program, typeOf, target))
