import type { Program } from './program.ts'

/**
 * Floating-point operations of a program's products: two for each multiplication and addition, and of
 * attention the causal half. What is done elementwise does not count.
 */
export function flopsOf({ instructions }: Program): number {
  return instructions.reduce((sum, { work }) => {
    if (work.kind === 'matmul') return sum + 2 * work.batch * work.m * work.n * work.k
    if (work.kind === 'attention' || work.kind === 'attentionGradient') {
      const { batch, heads, length, keyDim, valueDim } = work
      const pairs = (batch * heads * length * (length + 1)) / 2
      // Forward q·k and p·v; backward q·k again, and two products for each of the three gradients' pairs.
      const products = work.kind === 'attention' ? keyDim + valueDim : 3 * keyDim + 2 * valueDim
      return sum + 2 * pairs * products
    }
    return sum
  }, 0)
}
