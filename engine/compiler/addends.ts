import { reshaped } from './canonicalize.ts'
import { reachable } from '../graph/operations.ts'
import { withOriginOf } from '../graph/origins.ts'
import { baseOf, isRowOperation, rowSource } from './fusion-groups.ts'
import type { Pausing } from './pauses.ts'
import { Tensor } from '../graph/tensor.ts'

/** Whether a node adds things up, and might as well start from another tensor as from zero. */
const isSum = ({ operation: { kind } }: Tensor): boolean => kind === 'matmul' || kind === 'scatterAdd'

/**
 * Rewrites sum + residual, where nothing else reads the sum (a matmul or a scatterAdd), to one of three
 * operands that starts from the residual. Returns what each root became.
 */
export function* foldAddends(roots: readonly Tensor[]): Pausing<Tensor[]> {
  const nodes = reachable(roots)
  const uses = new Map<Tensor, number>()
  const use = (tensor: Tensor) => uses.set(tensor, (uses.get(tensor) ?? 0) + 1)
  for (const { inputs } of nodes) inputs.forEach(use)
  roots.forEach(use)

  const became = new Map<Tensor, Tensor>()
  const now = (tensor: Tensor) => became.get(tensor) ?? tensor
  /** The sum behind an operand, if it is read here only. */
  const sum = (operand: Tensor): Tensor | undefined => {
    for (let base = operand; uses.get(base) === 1; [base] = base.inputs) {
      const { operation, inputs, shape } = base
      if (isSum(base)) return inputs.length === 2 ? base : undefined
      if (operation.kind !== 'reshape' || inputs[0].shape.at(-1) !== shape.at(-1)) break
    }
    return undefined
  }
  /** Whether an operand is in memory anyway, in full. */
  const inMemory = (operand: Tensor): boolean => {
    if (isSum(baseOf(now(operand)))) return true
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
        const { operation, inputs } = now(found)
        const residual = now(first === a ? b : a)
        const folded = [...inputs, reshaped(residual, found.shape)]
        const sum = withOriginOf([found, tensor], () => new Tensor(operation, folded, found.shape, dtype))
        became.set(tensor, sum.reshape(...shape))
        continue
      }
    }
    if (inputs.some(input => became.has(input))) {
      const { operation: same } = tensor
      const moved = withOriginOf([tensor], () => new Tensor(same, inputs.map(now), shape, dtype))
      became.set(tensor, moved)
    }
  }
  return roots.map(now)
}
