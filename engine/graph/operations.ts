import type { IndexCheck } from './index-checks.ts'
import type { Shape } from './shape.ts'
import type { Tensor } from './tensor.ts'
import type { Variable } from '../runtime/variable.ts'

/** bool exists between operations only: comparisons make it, where() takes it. */
export type DType = 'float32' | 'int32' | 'bool'

export type UnaryName =
  | 'negate'
  | 'abs'
  | 'exp'
  | 'log'
  | 'log1p'
  | 'sqrt'
  | 'reciprocal'
  | 'sin'
  | 'cos'
  | 'tanh'
  | 'erf'
  | 'floor'
  | 'toFloat'
  | 'toInt'
  | 'bitsToUniform'
  /** The same values; no gradient passes. */
  | 'detach'

export type BinaryName =
  | 'add'
  | 'subtract'
  | 'multiply'
  | 'divide'
  /** The second operand is a constant that is not 0. */
  | 'power'
  | 'maximum'
  | 'minimum'
  | 'equal'
  | 'less'
  | 'lessEqual'
  | 'and'
  | 'xor'
  | 'randomBits'

/** What attention() is told beside its tensors; head h of an operand sits at columns h * its width. */
export interface AttentionOptions {
  readonly heads: number
  readonly scale: number
}

/** What a node of the graph computes from its inputs. Everything but 'attention' is a primitive. */
export type Operation =
  | { readonly kind: 'input'; readonly name: string }
  | { readonly kind: 'variable' }
  | { readonly kind: 'constant'; readonly value: number }
  /** The row-major index of each element. */
  | { readonly kind: 'iota' }
  | { readonly kind: 'unary'; readonly name: UnaryName }
  | { readonly kind: 'binary'; readonly name: BinaryName }
  /** inputs: condition, if true, if false. */
  | { readonly kind: 'where' }
  /** Over the last axis, which stays with extent 1. */
  | { readonly kind: 'reduce'; readonly name: 'sum' | 'max' }
  /** Sum over all axes but the last: [..., n] to [n]. */
  | { readonly kind: 'columnSum' }
  /** [..., m, k] x [..., k, n], maybe plus a third input; a transposed operand is stored with its last two axes swapped. */
  | { readonly kind: 'matmul'; readonly transposeA: boolean; readonly transposeB: boolean }
  | { readonly kind: 'reshape' }
  | { readonly kind: 'transpose'; readonly permutation: readonly number[] }
  | { readonly kind: 'slice'; readonly axis: number; readonly start: number }
  | { readonly kind: 'concat'; readonly axis: number }
  | { readonly kind: 'broadcast' }
  /** inputs: table [rows, n], indices [...]; out [..., n]. */
  | { readonly kind: 'gather' }
  /** inputs: values [..., n], indices [...], maybe base [rows, n]; out [rows, n], base or zeros plus the values at each index. */
  | { readonly kind: 'scatterAdd'; readonly rows: number }
  /** inputs: query, key, value and maybe slope; a tuple of out and logSumExp [batch, heads, length]. */
  | ({ readonly kind: 'attention' } & AttentionOptions)
  /** inputs: those of attention, out, logSumExp, gradient of out; a tuple of their gradients. */
  | ({ readonly kind: 'attentionGradient' } & AttentionOptions)
  /** One of a tuple's tensors. */
  | { readonly kind: 'element'; readonly index: number }

export const isVariable = (tensor: Tensor): tensor is Variable => tensor.operation.kind === 'variable'

/** Every node that the roots are computed from, inputs first. */
export function reachable(
  roots: readonly Tensor[],
  inputsOf: (tensor: Tensor) => readonly Tensor[] = ({ inputs }) => inputs,
): Tensor[] {
  const seen = new Set<Tensor>()
  const pending = [...roots]
  for (let tensor = pending.pop(); tensor; tensor = pending.pop()) {
    if (seen.has(tensor)) continue
    seen.add(tensor)
    for (const input of inputsOf(tensor)) pending.push(input)
  }
  return [...seen].sort((a, b) => a.id - b.id)
}

/** JSON has no infinities, no NaN and no negative zero. */
const spellNumbers = (_: string, value: unknown): unknown =>
  Object.is(value, -0) ? '-0' : typeof value === 'number' ? String(value) : value

/** Names what a node computes: two with the same key compute the same. */
export const keyOf = (operation: Operation, inputs: readonly Tensor[], shape: Shape, dtype: DType): string =>
  `${JSON.stringify(operation, spellNumbers)}|${inputs.map(input => input.id).join()}|${shape.join()}|${dtype}`

/** The tensors made while compile() traces a function, and the variables that it assigns. */
export class Trace {
  readonly assignments = new Map<Variable, Tensor>()
  /** What is to hold for the data of inputs. */
  readonly indexChecks: IndexCheck[] = []
  /** The stage of the nodes that are made now: see Tensor.stage. */
  microbatch = 0
  private readonly nodes = new Map<string, Tensor>()

  /** The node with this key if there is one already (common subexpressions are made once in a stage). */
  shared(key: string, make: () => Tensor): Tensor {
    const inStage = `${this.microbatch}|${key}`
    const found = this.nodes.get(inStage)
    if (found) return found
    const node = make()
    this.nodes.set(inStage, node)
    return node
  }

  private static current: Trace | undefined

  static get active(): Trace | undefined {
    return Trace.current
  }

  /** Runs a function with this trace as the active one. */
  record<T>(body: () => T): T {
    const outer = Trace.current
    Trace.current = this
    try {
      return body()
    } finally {
      Trace.current = outer
    }
  }
}

/** Makes nodes of a stage (see Tensor.stage), or of a later one if their inputs are. */
export function inMicrobatch<T>(stage: number, body: () => T): T {
  const trace = Trace.active
  if (!trace) return body()
  const outer = trace.microbatch
  trace.microbatch = stage
  try {
    return body()
  } finally {
    trace.microbatch = outer
  }
}
