/** A node of the graph as plain data. Tensor implements it, and adds the methods that build more nodes. */
import type { DType, Operation } from './operations.ts'
import type { Shape } from './shape.ts'

/** What to compute from which inputs. */
export interface GraphNode {
  /** Nodes are numbered in the order in which they are made, so inputs have smaller numbers. */
  readonly id: number
  readonly operation: Operation
  readonly inputs: readonly GraphNode[]
  readonly shape: Shape
  readonly dtype: DType
}

/** A string that says what a node computes: two nodes with the same key compute the same values. */
export const keyOf = (
  operation: Operation,
  inputs: readonly GraphNode[],
  shape: Shape,
  dtype: DType,
): string =>
  `${JSON.stringify(operation, spellNumbers)}|${inputs.map(input => input.id).join()}|${shape.join()}|${dtype}`

/** JSON has no infinities, no NaN and no negative zero. */
const spellNumbers = (_: string, value: unknown): unknown =>
  Object.is(value, -0) ? '-0' : typeof value === 'number' ? String(value) : value

/** Whether a node stands for the value of a variable. */
export const isVariable = ({ operation }: GraphNode): boolean => operation.kind === 'variable'

/** All nodes that the roots are computed from, the roots included, inputs first. */
export function reachable<Node extends GraphNode & { readonly inputs: readonly Node[] }>(
  roots: readonly Node[],
  inputsOf: (node: Node) => readonly Node[] = ({ inputs }) => inputs,
): Node[] {
  const seen = new Set<Node>()
  const pending = [...roots]
  for (let node = pending.pop(); node; node = pending.pop()) {
    if (seen.has(node)) continue
    seen.add(node)
    for (const input of inputsOf(node)) pending.push(input)
  }
  return [...seen].sort((a, b) => a.id - b.id)
}
