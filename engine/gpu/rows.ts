import type { RowProgram } from '../program.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
export function rowDispatches(work: RowProgram, typeOf: TypeOf, target: Target): Dispatch[] {
  throw new Error(`${work.kind} ${typeOf} ${target}`)
}
