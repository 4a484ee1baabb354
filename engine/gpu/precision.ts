import { Buffer, type Matrix, type Program } from '../program.ts'
import type { ElementType, TypeOf } from './kernel.ts'

/** A program whose products read f16 where that can be. */
export interface Typed {
  readonly program: Program
  readonly typeOf: TypeOf
  /** For variables that products read: an f16 copy, which outlives runs as the variable does. */
  readonly halves: ReadonlyMap<Buffer, Buffer>
  /** The variables among them that the program assigns, and their copies too. */
  readonly kept: ReadonlySet<Buffer>
}

/**
 * Decides what is stored as f16: temporaries between products, and a copy of each variable that products read, which
 * the kernel that assigns the variable writes as well. All else is f32, sums within kernels too.
 */
export function typed(program: Program, f16: boolean): Typed {
  if (!f16) return { program, typeOf: plainType, halves: new Map(), kept: new Set() }
  const halves = new Map<Buffer, Buffer>()
  // What a product adds to is f32 alone, and read as such.
  const summed = new Set(
    program.instructions.flatMap(({ work, writes }) =>
      work.kind === 'rows' ? [] : writes.map(({ root }) => root),
    ),
  )
  const halfOf = (matrix: Matrix): Matrix => {
    const { root } = matrix.buffer
    if (!root.variable || root.dtype !== 'float32' || summed.has(root)) return matrix
    const half = halves.get(root) ?? new Buffer(root.size, 'float32')
    halves.set(root, half)
    return { ...matrix, buffer: half }
  }
  const products = program.instructions.map(instruction => {
    const { work } = instruction
    if (work.kind !== 'matmul') return instruction
    const changed = { ...work, a: halfOf(work.a), b: halfOf(work.b) }
    const { a, b, residual } = changed
    const reads = [...new Set([a.buffer, b.buffer, ...(residual ? [residual.buffer] : [])])]
    return { ...instruction, work: changed, reads }
  })
  const kept = new Set<Buffer>()
  const instructions = products.map(instruction => {
    const { work, writes } = instruction
    if (work.kind !== 'rows') return instruction
    const copies = work.stores.flatMap(({ access, value }) => {
      const root = access.buffer?.root
      const half = root && halves.get(root)
      if (half) kept.add(root)
      return half ? [{ value, access: { ...access, buffer: half } }] : []
    })
    return {
      ...instruction,
      work: { ...work, stores: [...work.stores, ...copies] },
      writes: [...writes, ...copies.map(({ access }) => access.buffer)],
    }
  })
  const result = { ...program, instructions }
  const half = new Set([...halves.values(), ...halfTemporaries(result)])
  const typeOf = (buffer: Buffer): ElementType => (half.has(buffer.root) ? 'f16' : plainType(buffer))
  return { program: result, typeOf, halves, kept }
}

/** bool is stored as 0 or −1. */
const plainType: TypeOf = ({ dtype }) => (dtype === 'float32' ? 'f32' : 'i32')

/**
 * Temporaries that may be f16: what nothing but products and attention reads; and what products of activations make,
 * whoever reads it, as in mixed precision everywhere (Micikevicius et al. 2018). Sums that go on in memory, such as
 * gradients of weights and the residual stream, stay f32.
 */
function halfTemporaries({ instructions, inputs, outputs }: Program): Buffer[] {
  const wide = new Set<Buffer>([...inputs, ...outputs.map(({ buffer }) => buffer)])
  const loaded = new Set<Buffer>()
  const multiplied = new Set<Buffer>()
  const produced = new Set<Buffer>()
  const add = (set: Set<Buffer>, ...buffers: (Buffer | undefined)[]) => {
    for (const buffer of buffers) if (buffer) set.add(buffer)
  }
  for (const { work } of instructions) {
    switch (work.kind) {
      case 'rows':
        for (const { operation } of work.values) {
          if (operation.kind !== 'load') continue
          add(loaded, operation.access.buffer)
          add(wide, operation.access.gather?.indices.buffer)
        }
        add(wide, ...work.columnSums.map(({ buffer }) => buffer))
        break
      case 'matmul':
        add(multiplied, work.a.buffer, work.b.buffer)
        add(wide, work.residual?.buffer)
        // Of rows of a as they are stored: a product of the transposed is a gradient of weights.
        if (!work.residual && !work.a.transposed) produced.add(work.c.buffer)
        break
      case 'scatterAdd':
        add(wide, work.values.buffer, work.indices.buffer, work.base?.buffer, work.out.buffer)
        break
      case 'attention':
      case 'attentionGradient': {
        const { operands, results, slope, kind } = work
        const rest = kind === 'attention' ? [] : operands.slice(slope ? 4 : 3)
        const [out, logSumExp, gradient] = rest.map(({ buffer }) => buffer)
        add(multiplied, ...operands.slice(0, 3).map(({ buffer }) => buffer), out, gradient)
        if (slope) add(wide, operands[3].buffer)
        // logSumExp; of the gradient's results the slopes'.
        add(wide, logSumExp, results.at(kind === 'attention' ? 1 : 3)?.buffer)
      }
    }
  }
  const mayBeHalf = (buffer: Buffer) =>
    !buffer.root.variable &&
    buffer.dtype === 'float32' &&
    !wide.has(buffer) &&
    (produced.has(buffer) || (multiplied.has(buffer) && !loaded.has(buffer)))
  // Memory has one type, whatever it is taken over by.
  const roots = new Map<Buffer, boolean>()
  for (const { reads, writes } of instructions) {
    for (const buffer of [...reads, ...writes])
      roots.set(buffer.root, (roots.get(buffer.root) ?? true) && mayBeHalf(buffer))
  }
  return [...roots].flatMap(([root, isHalf]) => (isHalf ? [root] : []))
}
