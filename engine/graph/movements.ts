/** Nodes that only move elements: what is behind them, without the moves that do not matter. */
import type { Shape } from './shape.ts'
import type { Tensor } from './tensor.ts'

/** A matrix operand as it is stored, and whether its last two axes must be swapped. */
export function withoutTranspose(operand: Tensor): { stored: Tensor; transposed: boolean } {
  const { operation, inputs } = operand
  if (operation.kind !== 'transpose') return { stored: operand, transposed: false }
  const { permutation } = operation
  const dimensions = permutation.length
  const transposed = permutation.every(
    (axis, i) => axis === (i === dimensions - 1 ? dimensions - 2 : i === dimensions - 2 ? dimensions - 1 : i),
  )
  return { stored: transposed ? inputs[0] : operand, transposed }
}

/** Reshapes a tensor; a reshape of a reshape becomes one. */
export function reshaped(tensor: Tensor, shape: Shape): Tensor {
  const base = tensor.operation.kind === 'reshape' ? tensor.inputs[0] : tensor
  return base.reshape(...shape)
}
