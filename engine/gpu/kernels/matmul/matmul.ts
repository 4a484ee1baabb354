// Chooses the kernels of a matrix product.
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

/** A kernel before its dispatch. */
interface MatmulKernel {
  readonly kernel: Kernel
  readonly bindings: Bindings
  readonly workgroups: number
}

/**
 * Kernels for c = a·b (+ addend), in one of three forms: by columns where there are few rows or columns; otherwise in
 * subgroup matrices where the target has them, which multiply f16 and round float32 operands to it; otherwise in float32.
 * A product with few tiles is cut along k into slices, whose partial sums another kernel adds up. Sums are float32, and
 * their order depends only on the shapes and the target. plan: overrides the plan with the fewest estimated cycles.
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

/** Products with few rows are tiled, not made by columns, if k is deeper than this and there are fewer columns. */
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

function dispatchOf({ kernel, bindings, workgroups }: MatmulKernel, work: Matmul, typeOf: TypeOf): Dispatch {
  const { buffers, writes } = bindings
  return { kernel, buffers, writes, workgroups, ...costOf(work, buffer => bytesOf[typeOf(buffer)]) }
}
