import { type Cost, costOf } from '../cost.ts'
import { partitionOf } from '../partition.ts'
import { Buffer, type Instruction, type Matmul, type Matrix, type Program, type Work } from '../program.ts'
import { attentionCall } from './attention-call.ts'
import type { Kernel } from './kernel.ts'
import { fewRows, matrixVectorKernel } from './matrix-vector.ts'
import { type MicroKernel, matmulKernel, matmulPlan, packKernel, packedFloats } from './matmul.ts'
import { type Operand, rowKernel } from './rows.ts'
import { scatterKernel } from './scatter.ts'

/** A kernel with its operands, and the buffers that it reads and writes. */
export interface Call extends Cost {
  readonly kernel: Kernel
  readonly operands: readonly Operand[]
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
}

/** Calls that a thread makes one after the other for each of its items. */
export type Phase = Call[]

/** Rows of B that are packed at a time. */
const packBlock = 48

/** Turns a program's instructions into kernels of the CPU, and packs what products need packed. */
export function lower({ instructions }: Program, tile: MicroKernel, threads: number): Phase[] {
  const lowering = new Lowering(tile, threads)
  instructions.forEach((instruction, i) => {
    const chained = instruction.joins || (instructions[i + 1]?.joins ?? false)
    lowering.add(instruction, chained)
  })
  return lowering.phases
}

class Lowering {
  readonly phases: Phase[] = []
  private readonly tile: MicroKernel
  private readonly threads: number
  /** Right operands that are packed already. */
  private readonly packed = new Map<string, Buffer>()
  private readonly ids = new Map<Buffer, number>()

  constructor(tile: MicroKernel, threads: number) {
    this.tile = tile
    this.threads = threads
  }

  /** chained: it runs block by block of rows, with the instruction before it or the one after. */
  add(instruction: Instruction, chained: boolean): void {
    const { work, reads, writes, joins } = instruction
    const packs: Call[] = []
    const call = { ...this.kernelFor(work, reads, packs, chained), writes, ...costOf(work) }
    const last = this.phases.at(-1)
    if (joins && last && last[0].kernel.items === call.kernel.items) {
      this.phases.splice(-1, 0, ...packs.map(pack => [pack]))
      last.push(call)
    } else {
      this.phases.push(...packs.map(pack => [pack]), [call])
    }
  }

  private kernelFor(
    work: Work,
    reads: readonly Buffer[],
    packs: Call[],
    chained: boolean,
  ): Omit<Call, 'writes' | keyof Cost> {
    switch (work.kind) {
      case 'rows':
        return { ...rowKernel(work, this.tile.fma), reads }
      case 'matmul':
        return this.matmul(work, packs, chained)
      case 'scatterAdd': {
        const { rows, columns, count, values, indices, base, out } = work
        const strides = { valueStride: values.strides[0], outStride: out.strides[0] }
        const kernel = scatterKernel({
          rows,
          columns,
          count,
          ...strides,
          ...(base && { baseStride: base.strides[0] }),
        })
        return { kernel, operands: [values, indices, out, ...(base ? [base] : [])], reads }
      }
      case 'attention':
      case 'attentionGradient':
        return { ...attentionCall(work, this.tile, this.threads), reads }
    }
  }

  private matmul(work: Matmul, packs: Call[], chained: boolean): Omit<Call, 'writes' | keyof Cost> {
    const { batch, m, n, k, a, b, c, residual } = work
    const { tile } = this
    const shape = {
      m,
      n,
      k,
      rowStrideA: a.rowStride,
      rowStrideC: c.rowStride,
      ...(residual && { residual: { rowStride: residual.rowStride, batchStride: residual.batchStride } }),
    }
    const batched = { count: batch, strideA: a.batchStride, strideC: c.batchStride }
    // Of a single row whose elements are neighbours it is the same whether it counts as transposed.
    if (m <= fewRows && (!a.transposed || (m === 1 && a.rowStride === 1))) {
      const kernel = matrixVectorKernel(
        {
          ...shape,
          transposeB: b.transposed,
          rowStrideB: b.rowStride,
          ...(batch > 1 && { batch: { ...batched, strideB: b.batchStride } }),
        },
        this.threads,
        tile.fma,
      )
      const inputs = [a, b, ...(residual ? [residual] : [])]
      return { kernel, operands: inputs.toSpliced(2, 0, c), reads: inputs.map(({ buffer }) => buffer) }
    }
    const plan = matmulPlan(m, n, k, a.transposed, tile, this.threads, packBlock)
    const partition = chained ? partitionOf(work) : undefined
    const whole = Math.ceil(n / tile.columns) * tile.columns
    const blocks = partition ? { ...plan, rowBlock: partition.rowBlock, columnBlock: whole } : plan
    const packedB = this.pack(b, { batch, n, k, kBlock: plan.kBlock }, packs)
    const kernel = matmulKernel(
      { ...shape, transposeA: a.transposed, ...(batch > 1 && { batch: batched }) },
      blocks,
      tile,
    )
    const operands = [a, { buffer: packedB, offset: 0 }, c, ...(residual ? [residual] : [])]
    return { kernel, operands, reads: [a.buffer, packedB, ...(residual ? [residual.buffer] : [])] }
  }

  private pack(
    b: Matrix,
    shape: { batch: number; n: number; k: number; kBlock: number },
    packs: Call[],
  ): Buffer {
    const { batch, n, k, kBlock } = shape
    const { tile } = this
    const id = this.ids.get(b.buffer) ?? this.ids.size
    this.ids.set(b.buffer, id)
    const key = [id, b.offset, b.rowStride, b.transposed, b.batchStride, batch, n, k, kBlock].join()
    const known = this.packed.get(key)
    if (known) return known
    const packed = new Buffer(packedFloats(k, n, tile) * batch, 'float32')
    const stored = { k, n, rowStride: b.rowStride, transposed: b.transposed }
    const block = b.transposed ? Math.max(1, Math.round(packBlock / tile.columns)) * tile.columns : packBlock
    const kernel = packKernel(
      { ...stored, ...(batch > 1 && { batch: { count: batch, stride: b.batchStride } }) },
      kBlock,
      block,
      tile,
    )
    const operands = [b, { buffer: packed, offset: 0 }]
    packs.push({ kernel, operands, reads: [b.buffer], writes: [packed], flops: 0, bytes: 8 * k * n * batch })
    this.packed.set(key, packed)
    return packed
  }
}
