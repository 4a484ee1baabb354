import type { Attention } from '../program.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
export function attentionDispatches(work: Attention, typeOf: TypeOf, target: Target): Dispatch[] {
  throw new Error(`${work.kind} ${typeOf} ${target}`)
}
