/** Which operations of the graph an instruction computes, for people who look at a program: see recordOrigins. */
import type { FusedValue } from './fuse.ts'
import { originOf, recordsOrigins } from '../graph/origins.ts'
import type { Buffer, TracedOperation, Work } from './program.ts'
import { Tensor } from '../graph/tensor.ts'

const noted = new WeakMap<Work, readonly TracedOperation[]>()

/** Notes what a row program computes: values, and column sums of them. */
export function noteFused(work: Work, fused: readonly FusedValue[], sums: readonly Tensor[]): void {
  if (!recordsOrigins()) return
  const computed = fused.flatMap(({ kind, tensor }) => (kind === 'compute' ? [tensor] : []))
  const operations = [...computed, ...sums].map(traced)
  // The gather of a program that does nothing else is its only value; without any it copies, or fills.
  const [first] = fused
  if (operations.length === 0 && first)
    operations.push({ ...traced(first.tensor), name: first.kind === 'constant' ? 'fill' : 'copy' })
  noted.set(work, operations)
}

/** What an instruction computes that makes these tensors and buffers; undefined where no origins are recorded. */
export function operationsOf(
  work: Work,
  makes: readonly (Tensor | Buffer)[],
): readonly TracedOperation[] | undefined {
  if (!recordsOrigins()) return undefined
  const made = makes.filter(made => made instanceof Tensor)
  const operations = noted.get(work) ?? made.slice(0, 1).map(traced)
  // What is copied may be a variable, which is no line of the user's: then where the copy goes to is.
  const origin = made.map(originOf).find(origin => origin !== undefined)
  return origin
    ? operations.map(operation => ({ ...operation, origin: operation.origin ?? origin }))
    : operations
}

function traced(tensor: Tensor): TracedOperation {
  const { size } = tensor
  const elements = tensor.inputs.reduce((most, input) => Math.max(most, input.size), size)
  return { name: nameOf(tensor), origin: originOf(tensor), elements: elementsOf(tensor, elements) }
}

/** A reduction goes through its operand; anything else makes its result. */
const elementsOf = ({ operation, size }: Tensor, largest: number): number =>
  operation.kind === 'reduce' || operation.kind === 'columnSum' ? largest : size

function nameOf({ operation, inputs }: Tensor): string {
  switch (operation.kind) {
    case 'unary':
    case 'binary':
      return operation.name
    case 'reduce':
      return `row ${operation.name}`
    case 'columnSum':
      return 'column sum'
    case 'scatterAdd':
      return 'scatter-add'
    case 'element':
      return nameOf(inputs[0])
    case 'attentionGradient':
      return 'attention gradient'
    default:
      return operation.kind
  }
}
