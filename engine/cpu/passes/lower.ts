/** Turns a program's instructions into calls of kernels. */
import { type Cost, costOf } from '../../compiler/cost.ts'
import type { Pausing } from '../../compiler/pauses.ts'
import { Buffer, type Instruction, type Matmul, type Program, type Work } from '../../compiler/program.ts'
import { attentionCall } from '../kernels/attention-call.ts'
import { type SplitInstruction, splitColumns } from './column-layout.ts'
import type { Kernel, KernelOperand } from '../kernels/kernel.ts'
import { type MatmulShape, matmulKernel } from '../kernels/matmul/matmul.ts'
import { fewRows, matrixVectorKernel, mostDepth } from '../kernels/matmul/matrix-vector.ts'
import type { MicroKernel } from '../kernels/matmul/micro-kernel.ts'
import { packKernel, packedFloats } from '../kernels/matmul/packing.ts'
import { type Tiling, chooseTiling, kBlockOf } from '../kernels/matmul/tiling.ts'
import { rowKey, rowOperands } from '../kernels/rows/operands.ts'
import { rowKernel } from '../kernels/rows/row-kernel.ts'
import { scatterKernel } from '../kernels/scatter.ts'

/** A call of a kernel: its operands, and the buffers that it reads and writes. */
export interface Call extends Cost {
  readonly kernel: Kernel
  readonly operands: readonly KernelOperand[]
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  /** Calls with the same instruction here write to different elements of the same buffer, and can run in parallel. */
  readonly parallel?: Instruction
  /** The instruction that it executes, or a part of it. */
  readonly instruction?: Instruction
  /** 'pack' if it copies an operand for the instruction's kernel. */
  readonly role?: string
}

/** Calls that a thread makes one after the other for each item. */
export type CallChain = Call[]

/** Rows of B that are packed at a time. */
const packBlock = 48

/** Lowers a program to chains of calls, with calls that pack the right operands of products where that is worth it. */
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
  /** How many products use each right operand. */
  private readonly uses = new Map<string, number>()
  /** Right operands that are packed already, and their packed buffers. */
  private readonly packed = new Map<string, Buffer>()
  private readonly ids = new Map<Buffer, number>()
  /** Kernels written so far, by what they compute. */
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

  /** chained: the instruction shares row blocks with the one before or after it. */
  add(instruction: SplitInstruction, chained: boolean): void {
    const { work, reads, writes, sharesRowBlocks, parts, parallel } = instruction
    const rowBlock = chained ? instruction.rowBlock : undefined
    const packs: Call[] = []
    const made = this.kernelFor(work, reads, packs, rowBlock, parts)
    const call = { ...made, writes, ...costOf(work), parallel, instruction }
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
    packs: Call[],
    rowBlock: number | undefined,
    parts: number,
  ): Omit<Call, 'writes' | keyof Cost> {
    switch (work.kind) {
      case 'rows':
        return {
          kernel: this.kernel(rowKey(work), () => rowKernel(work, this.tile.fma)),
          operands: rowOperands(work),
          reads,
        }
      case 'matmul':
        return this.matmul(work, packs, rowBlock, parts)
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
      default:
        return work satisfies never
    }
  }

  private matmul(
    work: Matmul,
    packs: Call[],
    rowBlock: number | undefined,
    parts: number,
  ): Omit<Call, 'writes' | keyof Cost> {
    const { batch, m, n, k, a, b, c, addend } = work
    const { tile } = this
    const shape = {
      m,
      n,
      k,
      rowStrideA: a.rowStride,
      rowStrideC: c.rowStride,
      ...(addend && { addend: { rowStride: addend.rowStride, batchStride: addend.batchStride } }),
    }
    const strides = { count: batch, strideA: a.batchStride, strideC: c.batchStride }
    // For kernels that read B as it is stored.
    const asStored = batch > 1 ? { batch: { ...strides, strideB: b.batchStride } } : {}
    const operands = (right: KernelOperand) => [a, right, c, ...(addend ? [addend] : [])]
    const reads = (right: Buffer) => [a.buffer, right, ...(addend ? [addend.buffer] : [])]
    // A single row with adjacent elements is the same whether it is transposed or not.
    if (m <= fewRows && k <= mostDepth(b.transposed) && (!a.transposed || (m === 1 && a.rowStride === 1))) {
      const right = { transposeB: b.transposed, rowStrideB: b.rowStride }
      const whole = { ...shape, ...right, ...asStored }
      const kernel = this.kernel(['vector', whole], () => matrixVectorKernel(whole, this.threads, tile.fma))
      return { kernel, operands: operands(b), reads: reads(b.buffer) }
    }
    const plan = rowBlock
      ? {
          kBlock: kBlockOf(k, packBlock),
          rowBlock,
          columnBlock: Math.ceil(n / tile.columns) * tile.columns,
          packsB: false,
        }
      : chooseTiling(
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

  private product(shape: MatmulShape, plan: Tiling): Kernel {
    return this.kernel(['product', shape, plan], () => matmulKernel(shape, plan, this.tile))
  }

  /** The kernel for a key. Writes it once. */
  private kernel(key: unknown, write: () => Kernel): Kernel {
    const text = typeof key === 'string' ? key : JSON.stringify(key)
    const kernel = this.kernels.get(text) ?? write()
    this.kernels.set(text, kernel)
    return kernel
  }

  /** A key that is equal for products with the same right operand. */
  private rightOperand({ b, batch, n, k }: Matmul): string {
    const id = this.ids.get(b.buffer) ?? this.ids.size
    this.ids.set(b.buffer, id)
    return [id, b.offset, b.rowStride, b.transposed, b.batchStride, batch, n, k].join()
  }

  /** The packed right operand of a product. Adds a call that packs it, unless it is packed already. */
  private pack(work: Matmul, kBlock: number, packs: Call[]): Buffer {
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
