/** Chooses the kernel of an attention instruction. */
import { type Attention, type View, attentionOperands, attentionResults } from '../../compiler/program.ts'
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
  const { kind, batch, heads, length, keyDim, valueDim, scale, operands, results } = work
  const stride = (view: View) => view.strides[1]
  const { query, key, value, slope } = operands
  const strides = { q: stride(query), k: stride(key), v: stride(value) }
  const sizes = { batch, heads, length, keyDim, valueDim, scale, slope: slope !== undefined }
  const views = [...attentionOperands(work), ...attentionResults(work)]
  if (kind === 'attention') {
    const shape = { ...sizes, rowStride: { ...strides, out: stride(results.out) } }
    // Every group packs the keys and values again, so several are used only if there are few sequences and heads.
    const groups = Math.ceil((2 * threads) / (batch * heads))
    return {
      key: [kind, shape, groups],
      write: () => attentionForward(shape, tile, groups),
      operands: views,
    }
  }
  const shape = { ...sizes, rowStride: { ...strides, out: stride(operands.out) } }
  const gradients = {
    dOut: stride(operands.outGradient),
    dq: stride(results.query),
    dk: stride(results.key),
    dv: stride(results.value),
  }
  return {
    key: [kind, shape, gradients],
    write: () => attentionBackward(shape, gradients, tile),
    operands: views,
  }
}
