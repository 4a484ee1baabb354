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
 * Decides what is stored as f16: whatever is read by products and attention alone, and a copy of each variable that
 * products read, which the kernel that assigns the variable writes as well. All else is f32, sums too.
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

/** Temporaries that nothing but products and attention reads, and that no sum over rows or indices makes. */
function halfTemporaries({ instructions, inputs, outputs }: Program): Buffer[] {
  const wide = new Set<Buffer>([...inputs, ...outputs.map(({ buffer }) => buffer)].map(({ root }) => root))
  const candidates = new Set<Buffer>()
  const keepWide = (...buffers: (Buffer | undefined)[]) => {
    for (const buffer of buffers) if (buffer) wide.add(buffer.root)
  }
  for (const { work } of instructions) {
    switch (work.kind) {
      case 'rows':
        for (const { operation } of work.values) {
          if (operation.kind === 'load')
            keepWide(operation.access.buffer, operation.access.gather?.indices.buffer)
        }
        keepWide(...work.columnSums.map(({ buffer }) => buffer))
        break
      case 'matmul':
        keepWide(work.residual?.buffer)
        for (const { buffer } of [work.a, work.b]) candidates.add(buffer.root)
        break
      case 'scatterAdd':
        keepWide(work.values.buffer, work.indices.buffer, work.base?.buffer, work.out.buffer)
        break
      case 'attention':
      case 'attentionGradient': {
        const { operands, results, slope, kind } = work
        const rest = kind === 'attention' ? [] : operands.slice(slope ? 4 : 3)
        if (slope) keepWide(operands[3].buffer)
        // logSumExp; of the gradient's results the slopes'.
        keepWide(rest.at(1)?.buffer, results.at(kind === 'attention' ? 1 : 3)?.buffer)
        const [out, , gradient] = rest
        for (const view of [...operands.slice(0, 3), out, gradient])
          if (view) candidates.add(view.buffer.root)
      }
    }
  }
  return [...candidates].filter(root => !wide.has(root) && !root.variable && root.dtype === 'float32')
}
