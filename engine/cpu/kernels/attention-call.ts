/** Chooses the kernel of an attention instruction. */
import type { Attention, View } from '../../compiler/program.ts'
import { attentionBackward } from './attention/backward.ts'
import { attentionForward } from './attention/forward.ts'
import type { Kernel } from './kernel.ts'
import type { MicroKernel } from './matmul/micro-kernel.ts'

/** The kernel of an attention instruction: a key that equal kernels share, a function that writes it, and its operands. */
export function attentionCall(
  work: Attention,
  tile: MicroKernel,
  threads: number,
): { key: unknown; write: () => Kernel; operands: View[] } {
  const { kind, batch, heads, length, keyDim, valueDim, scale, slope, operands, results } = work
  const stride = (view: View) => view.strides[1]
  const given = (forward: readonly View[]) => {
    const [q, k, v] = forward
    return { q: stride(q), k: stride(k), v: stride(v) }
  }
  const sizes = { batch, heads, length, keyDim, valueDim, scale, slope }
  if (kind === 'attention') {
    const shape = { ...sizes, rowStride: { ...given(operands), out: stride(results[0]) } }
    // Every group packs the keys and values again, so several are used only if there are few sequences and heads.
    const groups = Math.ceil((2 * threads) / (batch * heads))
    return {
      key: [kind, shape, groups],
      write: () => attentionForward(shape, tile, groups),
      operands: [...operands, ...results],
    }
  }
  const [out, , dOut] = operands.slice(slope ? 4 : 3)
  const [dq, dk, dv] = results
  const shape = { ...sizes, rowStride: { ...given(operands), out: stride(out) } }
  const gradients = { dOut: stride(dOut), dq: stride(dq), dk: stride(dk), dv: stride(dv) }
  return {
    key: [kind, shape, gradients],
    write: () => attentionBackward(shape, gradients, tile),
    operands: [...operands, ...results],
  }
}
