/** Fuses additions into the matrix products and scatter-adds whose results they add to. */
import { reshaped } from '../graph/movements.ts'
import { reachable } from '../graph/node.ts'
import { withOriginOf } from '../graph/origins.ts'
import { baseOf, isRowOperation, rowSource } from './fusion-groups.ts'
import type { Pausing } from './pauses.ts'
import { Tensor } from '../graph/tensor.ts'

/** Whether a node is a sum that may start from another tensor instead of zero. */
const isSum = ({ operation: { kind } }: Tensor): boolean => kind === 'matmul' || kind === 'scatterAdd'

/**
 * Rewrites sum + addend, where the sum is a matmul or a scatterAdd that nothing else reads, to a matmul or scatterAdd
 * with the addend as its third input. Returns the new roots.
 */
export function* foldAddends(roots: readonly Tensor[]): Pausing<Tensor[]> {
  const nodes = reachable(roots)
  const uses = new Map<Tensor, number>()
  const use = (tensor: Tensor) => uses.set(tensor, (uses.get(tensor) ?? 0) + 1)
  for (const { inputs } of nodes) inputs.forEach(use)
  roots.forEach(use)

  const rewritten = new Map<Tensor, Tensor>()
  const newOf = (tensor: Tensor) => rewritten.get(tensor) ?? tensor
  /** The sum that an operand is, past reshapes, if nothing else reads it. */
  const sum = (operand: Tensor): Tensor | undefined => {
    for (let base = operand; uses.get(base) === 1; [base] = base.inputs) {
      const { operation, inputs, shape } = base
      if (isSum(base)) return inputs.length === 2 ? base : undefined
      if (operation.kind !== 'reshape' || inputs[0].shape.at(-1) !== shape.at(-1)) break
    }
    return undefined
  }
  /** Whether an operand is in memory anyway, at its full size. */
  const inMemory = (operand: Tensor): boolean => {
    if (isSum(baseOf(newOf(operand)))) return true
    const source = rowSource(operand)
    if (source) return (uses.get(source) ?? 0) > 1
    const base = baseOf(operand)
    return !isRowOperation(base) && base.operation.kind !== 'constant' && base.size >= operand.size
  }

  for (const tensor of nodes) {
    yield
    const { operation, inputs, shape, dtype } = tensor
    if (operation.kind === 'binary' && operation.name === 'add') {
      const [a, b] = inputs
      const first = sum(b) && inMemory(a) ? b : sum(a) && inMemory(b) ? a : undefined
      const found = first && sum(first)
      if (first && found) {
        const { operation, inputs } = newOf(found)
        const addend = newOf(first === a ? b : a)
        const folded = [...inputs, reshaped(addend, found.shape)]
        const sum = withOriginOf([found, tensor], () => new Tensor(operation, folded, found.shape, dtype))
        rewritten.set(tensor, sum.reshape(...shape))
        continue
      }
    }
    if (inputs.some(input => rewritten.has(input))) {
      const { operation: same } = tensor
      const moved = withOriginOf([tensor], () => new Tensor(same, inputs.map(newOf), shape, dtype))
      rewritten.set(tensor, moved)
    }
  }
  return roots.map(newOf)
}
