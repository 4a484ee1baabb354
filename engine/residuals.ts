import { baseOf, isRowOperation, rowSource } from './groups.ts'
import { sameShape } from './shape.ts'
import { Tensor } from './tensor.ts'

/** Every node that the roots are computed from, inputs first. */
export function reachable(roots: readonly Tensor[]): Tensor[] {
  const seen = new Set<Tensor>()
  const pending = [...roots]
  for (let tensor = pending.pop(); tensor; tensor = pending.pop()) {
    if (seen.has(tensor)) continue
    seen.add(tensor)
    pending.push(...tensor.inputs)
  }
  return [...seen].sort((a, b) => a.id - b.id)
}

/**
 * Rewrites product + residual, where nothing else reads the product, to a product of three operands
 * whose sums start from the residual. Returns what each root became.
 */
export function foldResiduals(roots: readonly Tensor[]): Tensor[] {
  const nodes = reachable(roots)
  const uses = new Map<Tensor, number>()
  const use = (tensor: Tensor) => uses.set(tensor, (uses.get(tensor) ?? 0) + 1)
  for (const { inputs } of nodes) inputs.forEach(use)
  roots.forEach(use)

  const became = new Map<Tensor, Tensor>()
  const now = (tensor: Tensor) => became.get(tensor) ?? tensor
  /** The product behind an operand, if it is read here only. */
  const product = (operand: Tensor): Tensor | undefined => {
    if (uses.get(operand) !== 1) return undefined
    const { operation, inputs } = operand
    if (operation.kind === 'matmul') return inputs.length === 2 ? operand : undefined
    return operation.kind === 'reshape' && inputs[0].shape.at(-1) === operand.shape.at(-1) ? product(inputs[0]) : undefined
  }
  /** Whether an operand is in memory anyway, in full. */
  const inMemory = (operand: Tensor): boolean => {
    if (baseOf(now(operand)).operation.kind === 'matmul') return true
    const source = rowSource(operand)
    if (source) return (uses.get(source) ?? 0) > 1
    const base = baseOf(operand)
    return !isRowOperation(base) && base.operation.kind !== 'constant' && base.size >= operand.size
  }

  for (const tensor of nodes) {
    const { operation, inputs, shape, dtype } = tensor
    if (operation.kind === 'binary' && operation.name === 'add') {
      const [a, b] = inputs
      const first = product(b) && inMemory(a) ? b : product(a) && inMemory(b) ? a : undefined
      const found = first && product(first)
      if (first && found) {
        const { operation, inputs } = now(found)
        const residual = now(first === a ? b : a)
        const folded = [...inputs, residual.reshape(...found.shape)]
        became.set(tensor, new Tensor(operation, folded, found.shape, dtype).reshape(...shape))
        continue
      }
    }
    if (inputs.some(input => became.has(input))) {
      const { operation: same } = tensor
      became.set(tensor, new Tensor(same, inputs.map(now), shape, dtype))
    }
  }
  return roots.map(now)
}
