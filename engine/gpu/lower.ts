import type { Program, Work } from '../program.ts'
import { attentionDispatches } from './attention.ts'
import type { Dispatch, Target, TypeOf } from './kernel.ts'
import { matmulDispatches } from './matmul.ts'
import { rowDispatches } from './rows.ts'
import { ScatterOrders, scatterDispatches } from './scatter.ts'

/** Turns a program's instructions into kernels of the GPU, in the order in which they run. */
export function lower({ instructions }: Program, typeOf: TypeOf, target: Target): Dispatch[] {
  const orders = new ScatterOrders()
  const dispatchesOf = (work: Work): Dispatch[] => {
    switch (work.kind) {
      case 'rows':
        return rowDispatches(work, typeOf, target)
      case 'matmul':
        return matmulDispatches(work, typeOf, target)
      case 'scatterAdd':
        return scatterDispatches(work, typeOf, target, orders)
      case 'attention':
      case 'attentionGradient':
        return attentionDispatches(work, typeOf, target)
    }
  }
  return instructions.flatMap(({ work, writes }) => {
    const dispatches = dispatchesOf(work)
    orders.forget(writes)
    return dispatches
  })
}
