/** Rewrites a traced graph to the form that the rest of the compiler expects. */
import { withoutTranspose } from '../graph/movements.ts'
import { keyOf, reachable } from '../graph/node.ts'
import type { Operation } from '../graph/operations.ts'
import { withOriginOf } from '../graph/origins.ts'
import type { Pausing } from './pauses.ts'
import { sameShape } from '../graph/shape.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * The canonical form of a graph. Chains of reshapes, of transposes and of broadcasts become one. Products take in the
 * transposes of their operands. Slices come as early as they can. Nodes that compute the same become one. Returns the
 * new roots.
 *
 * Tracing keeps all of these nodes, so that each can have a gradient.
 */
export function* canonicalize(roots: readonly Tensor[]): Pausing<Tensor[]> {
  const rewritten = new Map<Tensor, Tensor>()
  const made = new Map<string, Tensor>()
  const make = (
    operation: Operation,
    inputs: readonly Tensor[],
    { microbatch, shape, dtype }: Tensor,
  ): Tensor => {
    const key = `${microbatch}|${keyOf(operation, inputs, shape, dtype)}`
    const known = made.get(key) ?? new Tensor(operation, inputs, shape, dtype, { microbatch })
    made.set(key, known)
    return known
  }
  const newOf = (tensor: Tensor) => rewritten.get(tensor) ?? tensor
  for (const tensor of reachable(roots, computedFrom)) {
    yield
    const { kind } = tensor.operation
    if (kind === 'input' || kind === 'variable') continue
    const inputs = computedFrom(tensor).map(newOf)
    rewritten.set(
      tensor,
      withOriginOf([tensor], () => rewrite(tensor, inputs, make)),
    )
  }
  return roots.map(newOf)
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
