import { type Operation, keyOf, reachable } from '../graph/operations.ts'
import { withOriginOf } from '../graph/origins.ts'
import type { Pausing } from './pauses.ts'
import { type Shape, sameShape } from '../graph/shape.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * Rewrites a graph to the one that is compiled: chains of reshapes, of transposes and of broadcasts become one,
 * products take in the transposes of their operands, slices are made as early as they can be, and what computes
 * the same is one node. Returns what each root became.
 *
 * Until then a graph keeps all of these apart, so that there is a gradient at each of them.
 */
export function* canonicalize(roots: readonly Tensor[]): Pausing<Tensor[]> {
  const became = new Map<Tensor, Tensor>()
  const made = new Map<string, Tensor>()
  const make = (
    operation: Operation,
    inputs: readonly Tensor[],
    { microbatch, shape, dtype }: Tensor,
  ): Tensor => {
    const key = `${microbatch}|${keyOf(operation, inputs, shape, dtype)}`
    const known = made.get(key) ?? new Tensor(operation, inputs, shape, dtype, { stage: microbatch })
    made.set(key, known)
    return known
  }
  const now = (tensor: Tensor) => became.get(tensor) ?? tensor
  for (const tensor of reachable(roots, computedFrom)) {
    yield
    const { kind } = tensor.operation
    if (kind === 'input' || kind === 'variable') continue
    const rewritten = withOriginOf([tensor], () => rewrite(tensor, computedFrom(tensor).map(now), make))
    became.set(tensor, rewritten)
  }
  return roots.map(now)
}

const computedFrom = ({ sunk, inputs }: Tensor): readonly Tensor[] => (sunk ? [sunk.value] : inputs)

function rewrite(
  tensor: Tensor,
  inputs: readonly Tensor[],
  make: (operation: Operation, inputs: readonly Tensor[], like: Tensor) => Tensor,
): Tensor {
  const { operation, shape, sunk } = tensor
  if (sunk) return inputs[0]
  switch (operation.kind) {
    case 'reshape':
    case 'broadcast': {
      const base = inputs[0].operation.kind === operation.kind ? inputs[0].inputs[0] : inputs[0]
      return sameShape(base.shape, shape) ? base : make(operation, [base], tensor)
    }
    case 'transpose': {
      const [input] = inputs
      if (input.operation.kind !== 'transpose') return make(operation, inputs, tensor)
      const inner = input.operation.permutation
      const permutation = operation.permutation.map(axis => inner[axis])
      return permutation.every((axis, i) => axis === i)
        ? input.inputs[0]
        : make({ kind: 'transpose', permutation }, input.inputs, tensor)
    }
    case 'matmul': {
      const [a, b] = inputs.map(withoutTranspose)
      const transposeA = operation.transposeA !== a.transposed
      const transposeB = operation.transposeB !== b.transposed
      return make({ kind: 'matmul', transposeA, transposeB }, [a.stored, b.stored], tensor)
    }
    default:
      return make(operation, inputs, tensor)
  }
}

/** The stored operand of a product, and whether its last two axes are to be swapped. */
export function withoutTranspose(operand: Tensor): { stored: Tensor; transposed: boolean } {
  const { operation, inputs } = operand
  if (operation.kind !== 'transpose') return { stored: operand, transposed: false }
  const { permutation } = operation
  const rank = permutation.length
  const transposed = permutation.every(
    (axis, i) => axis === (i === rank - 1 ? rank - 2 : i === rank - 2 ? rank - 1 : i),
  )
  return { stored: transposed ? inputs[0] : operand, transposed }
}

/** A reshape of what a reshape is one of. */
export function reshaped(tensor: Tensor, shape: Shape): Tensor {
  const base = tensor.operation.kind === 'reshape' ? tensor.inputs[0] : tensor
  return base.reshape(...shape)
}
