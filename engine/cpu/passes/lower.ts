import { type Cost, costOf } from '../../compiler/cost.ts'
import { partitionOf } from '../../compiler/row-blocks.ts'
import type { Pausing } from '../../compiler/pauses.ts'
import { Buffer, type Instruction, type Matmul, type Program, type Work } from '../../compiler/program.ts'
import { attentionCall } from '../kernels/attention-call.ts'
import { type SplitInstruction, splitColumns } from './column-layout.ts'
import type { Kernel } from '../kernels/kernel.ts'
import { fewRows, matrixVectorKernel, mostDepth } from '../kernels/matrix-vector.ts'
import {
  type MatmulPlan,
  type MatmulShape,
  type MicroKernel,
  kBlockOf,
  matmulKernel,
  matmulPlan,
  packKernel,
  packedFloats,
} from '../kernels/matmul.ts'
import { type Operand, rowKernel, rowKey, rowOperands } from '../kernels/rows.ts'
import { scatterKernel } from '../kernels/scatter.ts'

/** A kernel with its operands, and the buffers that it reads and writes. */
export interface Call extends Cost {
  readonly kernel: Kernel
  readonly operands: readonly Operand[]
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  /** Calls that have the same one here write apart from each other, if to the same buffer. */
  readonly parallel?: Instruction
  /** What it executes, or a part of it. */
  readonly instruction?: Instruction
  /** 'pack' where it copies an operand for the instruction's kernel. */
  readonly role?: string
}

/** Calls that a thread makes one after the other for each of its items. */
export type CallChain = Call[]

/** Rows of B that are packed at a time. */
const packBlock = 48

/** Turns a program's instructions into kernels of the CPU, and packs what products need packed. */
export function* lower(program: Program, tile: MicroKernel, threads: number): Pausing<CallChain[]> {
  const instructions = splitColumns(program, tile.columns)
  const lowering = new Lowering(instructions, tile, threads)
  for (const [i, instruction] of instructions.entries()) {
    yield
    const chained = instruction.sharesRowBlocks || (instructions[i + 1]?.sharesRowBlocks ?? false)
    lowering.add(instruction, chained)
  }
  return lowering.phases
}

class Lowering {
  readonly phases: CallChain[] = []
  private readonly tile: MicroKernel
  private readonly threads: number
  /** Right operands of products: how many products have them. */
  private readonly uses = new Map<string, number>()
  /** Those that are packed already. */
  private readonly packed = new Map<string, Buffer>()
  private readonly ids = new Map<Buffer, number>()
  /** Those written so far, by what they are written for. */
  private readonly kernels = new Map<string, Kernel>()

  constructor(instructions: readonly Instruction[], tile: MicroKernel, threads: number) {
    this.tile = tile
    this.threads = threads
    for (const { work } of instructions) {
      if (work.kind !== 'matmul') continue
      const key = this.rightOperand(work)
      this.uses.set(key, (this.uses.get(key) ?? 0) + 1)
    }
  }

  /** chained: it runs block by block of rows, with the instruction before it or the one after. */
  add(instruction: SplitInstruction, chained: boolean): void {
    const { work, reads, writes, sharesRowBlocks, parts, parallel } = instruction
    const packs: Omit<Call, 'instruction'>[] = []
    const done = this.kernelFor(work, reads, packs, chained, parts)
    const call = { ...done, writes, ...costOf(work), parallel, instruction }
    const packing = packs.map(pack => [{ ...pack, instruction, role: 'pack' }])
    const last = this.phases.at(-1)
    if (sharesRowBlocks && last && last[0].kernel.items === call.kernel.items) {
      this.phases.splice(-1, 0, ...packing)
      last.push(call)
    } else {
      this.phases.push(...packing, [call])
    }
  }

  private kernelFor(
    work: Work,
    reads: readonly Buffer[],
    packs: Omit<Call, 'instruction'>[],
    chained: boolean,
    parts: number,
  ): Omit<Call, 'writes' | 'instruction' | keyof Cost> {
    switch (work.kind) {
      case 'rows':
        return {
          kernel: this.kernel(rowKey(work), () => rowKernel(work, this.tile.fma)),
          operands: rowOperands(work),
          reads,
        }
      case 'matmul':
        return this.matmul(work, packs, chained, parts)
      case 'scatterAdd': {
        const { rows, columns, count, values, indices, base, out } = work
        const strides = { valueStride: values.strides[0], outStride: out.strides[0] }
        const shape = { rows, columns, count, ...strides, ...(base && { baseStride: base.strides[0] }) }
        const kernel = this.kernel(['scatter', shape], () => scatterKernel(shape))
        return { kernel, operands: [values, indices, out, ...(base ? [base] : [])], reads }
      }
      case 'attention':
      case 'attentionGradient': {
        const { key, write, operands } = attentionCall(work, this.tile, this.threads)
        return { kernel: this.kernel(key, write), operands, reads }
      }
    }
  }

  private matmul(
    work: Matmul,
    packs: Omit<Call, 'instruction'>[],
    chained: boolean,
    parts: number,
  ): Omit<Call, 'writes' | 'instruction' | keyof Cost> {
    const { batch, m, n, k, a, b, c, addend } = work
    const { tile } = this
    const shape = {
      m,
      n,
      k,
      rowStrideA: a.rowStride,
      rowStrideC: c.rowStride,
      ...(addend && { residual: { rowStride: addend.rowStride, batchStride: addend.batchStride } }),
    }
    const strides = { count: batch, strideA: a.batchStride, strideC: c.batchStride }
    // Where B is read as it is stored.
    const asStored = batch > 1 ? { batch: { ...strides, strideB: b.batchStride } } : {}
    const operands = (right: Operand) => [a, right, c, ...(addend ? [addend] : [])]
    const reads = (right: Buffer) => [a.buffer, right, ...(addend ? [addend.buffer] : [])]
    // Of a single row whose elements are neighbours it is the same whether it counts as transposed.
    if (m <= fewRows && k <= mostDepth(b.transposed) && (!a.transposed || (m === 1 && a.rowStride === 1))) {
      const right = { transposeB: b.transposed, rowStrideB: b.rowStride }
      const whole = { ...shape, ...right, ...asStored }
      const kernel = this.kernel(['vector', whole], () => matrixVectorKernel(whole, this.threads, tile.fma))
      return { kernel, operands: operands(b), reads: reads(b.buffer) }
    }
    const partition = chained ? partitionOf(work) : undefined
    const plan = partition
      ? {
          kBlock: kBlockOf(k, packBlock),
          rowBlock: partition.rowBlock,
          columnBlock: Math.ceil(n / tile.columns) * tile.columns,
          packsB: false,
        }
      : matmulPlan(
          {
            m,
            n,
            k,
            transposeA: a.transposed,
            transposeB: b.transposed,
            batch,
            usesOfB: this.uses.get(this.rightOperand(work)) ?? 1,
            parts,
          },
          tile,
          this.threads,
          packBlock,
        )
    const product = { ...shape, transposeA: a.transposed }
    if (plan.packsB) {
      const unpackedB = { rowStride: b.rowStride, transposed: b.transposed }
      const kernel = this.product({ ...product, unpackedB, ...asStored }, plan)
      return { kernel, operands: operands(b), reads: reads(b.buffer) }
    }
    const packedB = this.pack(work, plan.kBlock, packs)
    const kernel = this.product({ ...product, ...(batch > 1 && { batch: strides }) }, plan)
    return { kernel, operands: operands({ buffer: packedB, offset: 0 }), reads: reads(packedB) }
  }

  private product(shape: MatmulShape, plan: MatmulPlan): Kernel {
    return this.kernel(['product', shape, plan], () => matmulKernel(shape, plan, this.tile))
  }

  /** The kernel that a key stands for, which is written once. */
  private kernel(key: unknown, write: () => Kernel): Kernel {
    const text = typeof key === 'string' ? key : JSON.stringify(key)
    const kernel = this.kernels.get(text) ?? write()
    this.kernels.set(text, kernel)
    return kernel
  }

  /** Names the right operand of a product. */
  private rightOperand({ b, batch, n, k }: Matmul): string {
    const id = this.ids.get(b.buffer) ?? this.ids.size
    this.ids.set(b.buffer, id)
    return [id, b.offset, b.rowStride, b.transposed, b.batchStride, batch, n, k].join()
  }

  private pack(work: Matmul, kBlock: number, packs: Omit<Call, 'instruction'>[]): Buffer {
    const { b, batch, n, k } = work
    const { tile } = this
    const key = `${this.rightOperand(work)},${kBlock}`
    const known = this.packed.get(key)
    if (known) return known
    const packed = new Buffer(packedFloats(k, n, tile) * batch, 'float32')
    const stored = { k, n, rowStride: b.rowStride, transposed: b.transposed }
    const block = b.transposed ? Math.max(1, Math.round(packBlock / tile.columns)) * tile.columns : packBlock
    const shape = { ...stored, ...(batch > 1 && { batch: { count: batch, stride: b.batchStride } }) }
    const kernel = this.kernel(['pack', shape, kBlock, block], () => packKernel(shape, kBlock, block, tile))
    const operands = [b, { buffer: packed, offset: 0 }]
    packs.push({ kernel, operands, reads: [b.buffer], writes: [packed], flops: 0, bytes: 8 * k * n * batch })
    this.packed.set(key, packed)
    return packed
  }
}
