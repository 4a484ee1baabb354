import { costOf } from '../cost.ts'
import type { Matmul } from '../program.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from './kernel.ts'
import { matricesKernel } from './matmul-matrices.ts'
import { numbersKernel } from './matmul-numbers.ts'
import { flippedProduct } from './matmul-operands.ts'
import { type MatmulPlan, matmulPlan } from './matmul-plan.ts'
import { partialSums, sumSlices } from './matmul-slices.ts'

/**
 * Kernels for c = a·b (+ residual). Where the target has subgroup matrices, operands are f16 on their way to being
 * multiplied; else they are float32. Sums are float32, and their order depends on the shape and the target alone.
 */
export function matmulDispatches(
  given: Matmul,
  typeOf: TypeOf,
  target: Target,
  plan?: MatmulPlan,
): Dispatch[] {
  const work = given.c.transposed ? flippedProduct(given) : given
  return tiled(work, typeOf, target, plan ?? matmulPlan(work, target))
}

function tiled(work: Matmul, typeOf: TypeOf, target: Target, plan: MatmulPlan): Dispatch[] {
  const { slices } = plan
  const { residual, ...product } = work
  const partial = slices > 1 ? partialSums(work, slices) : undefined
  const made = partial ? { ...product, c: partial } : work
  const typeOfAll: TypeOf = buffer => (buffer.root === partial?.buffer ? 'f32' : typeOf(buffer))
  const make = plan.form === 'matrices' ? matricesKernel : numbersKernel
  const { kernel, bindings, workgroups } = make(made, plan, typeOfAll, target)
  const { flops, bytes } = costOf(made, buffer => bytesOf[typeOfAll(buffer)])
  const dispatch = { kernel, buffers: bindings.buffers, writes: bindings.writes, workgroups, flops, bytes }
  return partial ? [dispatch, sumSlices(work, partial, slices, typeOfAll, target)] : [dispatch]
}
