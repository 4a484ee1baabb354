import type { Attention } from '../program.ts'
import type { Kernel } from './kernel.ts'
import type { MicroKernel } from './matmul.ts'
import type { Operand } from './rows.ts'

/** The kernel of an attention instruction, with its operands. */
export function attentionCall(_work: Attention, _tile: MicroKernel): { kernel: Kernel; operands: Operand[] } {
  throw new Error('attention')
}
