import { costOf } from '../../../compiler/cost.ts'
import type { Matmul } from '../../../compiler/program.ts'
import type { Bindings } from '../bindings.ts'
import { type Dispatch, type Kernel, type Target, type TypeOf, bytesOf } from '../kernel.ts'
import { matricesKernel } from './subgroup-matrix.ts'
import { numbersKernel } from './scalar.ts'
import { flippedProduct } from './operands.ts'
import { type MatmulPlan, matmulPlan } from './tiling.ts'
import { partialSums, sumSlices } from './slices.ts'
import { mostVectors, vectorKernel } from './vector.ts'

/** A kernel in the making. */
interface Made {
  readonly kernel: Kernel
  readonly bindings: Bindings
  readonly workgroups: number
}

/**
 * Kernels for c = a·b (+ residual), in one of three forms: with few rows or columns, by columns; else in
 * subgroup matrices where the target has them, which multiply f16 (what is stored as float32 is rounded on
 * its way); else in float32. A product with little to do for its size is cut along k, and its partial sums
 * are added up by another kernel. Sums are float32, and their order depends on the shapes and the target
 * alone. plan: instead of what is estimated to be fastest.
 */
export function matmulDispatches(
  given: Matmul,
  typeOf: TypeOf,
  target: Target,
  plan?: MatmulPlan,
): Dispatch[] {
  if (!plan) {
    const narrow = given.n < given.m ? flippedProduct(given) : given
    if (
      narrow.m <= mostVectors &&
      (narrow.k <= deepest || (narrow.k <= 8 * deepest && narrow.batch * narrow.n >= wide))
    )
      return [dispatchOf(vectorKernel(narrow, typeOf, target), narrow, typeOf)]
  }
  const work = given.c.transposed ? flippedProduct(given) : given
  return tiled(work, typeOf, target, plan ?? matmulPlan(work, target))
}

/** Products with few rows are cut along k when this is deeper, and there are fewer columns. */
const deepest = 4096
const wide = 4096

function tiled(work: Matmul, typeOf: TypeOf, target: Target, plan: MatmulPlan): Dispatch[] {
  const { form, slices } = plan
  const make = form === 'matrices' ? matricesKernel : numbersKernel
  if (slices === 1) return [dispatchOf(make(work, plan, typeOf, target), work, typeOf)]
  const partial = partialSums(work, slices)
  const typeOfAll: TypeOf = buffer => (buffer === partial.buffer ? 'f32' : typeOf(buffer))
  const { addend: _, ...product } = work
  const sliced = { ...product, c: partial }
  const multiplying = dispatchOf(make(sliced, plan, typeOfAll, target), sliced, typeOfAll)
  const others = (slices - 1) * work.batch * work.m * work.n * bytesOf.f32
  return [
    { ...multiplying, bytes: multiplying.bytes + others },
    sumSlices(work, partial, slices, typeOfAll, target),
  ]
}

function dispatchOf({ kernel, bindings, workgroups }: Made, work: Matmul, typeOf: TypeOf): Dispatch {
  const { buffers, writes } = bindings
  return { kernel, buffers, writes, workgroups, ...costOf(work, buffer => bytesOf[typeOf(buffer)]) }
}
