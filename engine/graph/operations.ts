/** The operations of a graph: everything that a node can compute. */

/** bool exists only between operations: comparisons return it, and where() takes it. */
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
  /** The same values, but no gradient flows through. */
  | 'detach'

export type BinaryName =
  | 'add'
  | 'subtract'
  | 'multiply'
  | 'divide'
  /** The second operand is a constant other than 0. */
  | 'power'
  | 'maximum'
  | 'minimum'
  | 'equal'
  | 'less'
  | 'lessEqual'
  | 'and'
  | 'xor'
  | 'randomBits'

/** The options of attention(). Head h of an operand starts at column h * width of a head. */
export interface AttentionOptions {
  readonly heads: number
  readonly scale: number
}

/** What a node computes from its inputs. */
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
  /** Over the last axis, which keeps extent 1. */
  | { readonly kind: 'reduce'; readonly name: 'sum' | 'max' }
  /** Sum over all axes but the last: [..., n] to [n]. */
  | { readonly kind: 'columnSum' }
  /** [..., m, k] x [..., k, n], plus a third input if there is one. A flag: that operand has its last two axes swapped. */
  | { readonly kind: 'matmul'; readonly transposeA: boolean; readonly transposeB: boolean }
  | { readonly kind: 'reshape' }
  | { readonly kind: 'transpose'; readonly permutation: readonly number[] }
  | { readonly kind: 'slice'; readonly axis: number; readonly start: number }
  | { readonly kind: 'concat'; readonly axis: number }
  | { readonly kind: 'broadcast' }
  /** inputs: table [rows, n], indices [...]; out [..., n]. */
  | { readonly kind: 'gather' }
  /** inputs: values [..., n], indices [...], and perhaps base [rows, n]; out [rows, n], base or zeros plus the values. */
  | { readonly kind: 'scatterAdd'; readonly rows: number }
  /** inputs: query, key, value and perhaps slope; a tuple of out and logSumExp [batch, heads, length]. */
  | ({ readonly kind: 'attention' } & AttentionOptions)
  /** inputs: those of attention, out, logSumExp, gradient of out; a tuple of the gradients of attention's inputs. */
  | ({ readonly kind: 'attentionGradient' } & AttentionOptions)
  /** One of a tuple's tensors. */
  | { readonly kind: 'element'; readonly index: number }
