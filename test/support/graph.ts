/** Small graphs for the tests of the compiler's passes. */
import { type Shape, Tensor } from '../../engine/index.ts'

/** A node that stands for an input of a function. */
export const input = (name: string, ...shape: number[]): Tensor =>
  new Tensor({ kind: 'input', name }, [], shape satisfies Shape, 'float32')

/** An input of indices. */
export const indices = (name: string, ...shape: number[]): Tensor =>
  new Tensor({ kind: 'input', name }, [], shape satisfies Shape, 'int32')

/** The kinds of the nodes from a tensor down to where its first inputs come from. */
export function chainOf(tensor: Tensor): string[] {
  const kinds: string[] = []
  for (let node: Tensor | undefined = tensor; node; [node] = node.inputs) kinds.push(node.operation.kind)
  return kinds
}
