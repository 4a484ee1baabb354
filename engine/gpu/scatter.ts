import type { Buffer, ScatterAdd } from '../program.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
/** Orders of indices by the row that they name, made once for all that use the same indices. */
export class ScatterOrders {
  readonly known = new Map<Buffer, Buffer>()
}
export function scatterDispatches(
  work: ScatterAdd,
  typeOf: TypeOf,
  target: Target,
  orders: ScatterOrders,
): Dispatch[] {
  throw new Error(`${work.kind} ${typeOf} ${target} ${orders}`)
}
