import type { Matmul } from '../program.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
export function matmulDispatches(work: Matmul, typeOf: TypeOf, target: Target): Dispatch[] {
  throw new Error(`${work.kind} ${typeOf} ${target}`)
}
