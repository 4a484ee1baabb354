// Decides which buffers are stored in half precision (f16).
import { Buffer, type Instruction, type Matrix, type Program, type View } from '../../compiler/program.ts'
import type { ElementType, Target, TypeOf } from '../kernels/kernel.ts'
import { allocationsOf } from '../kernels/rows/analysis.ts'

/** A program with the element types of its buffers. */
export interface TypedProgram {
  readonly program: Program
  readonly typeOf: TypeOf
  /** The f16 copies of variables that products read. They outlive runs, as the variables do. */
  readonly halfCopies: ReadonlyMap<Buffer, Buffer>
  /** The variables among these whose copies the program writes when it assigns them. */
  readonly kept: ReadonlySet<Buffer>
}

/**
 * Decides what is stored as f16: temporaries between products, and copies of float32 buffers that products read. A
 * variable's copy outlives runs, and the kernel that assigns the variable writes the copy too. Everything else is float32,
 * including sums within kernels.
 */
export function assignPrecision(
  program: Program,
  f16: boolean,
  { bindings }: Pick<Target, 'bindings'>,
): TypedProgram {
  if (!f16) return { program, typeOf: plainType, halfCopies: new Map(), kept: new Set() }
  const halfCopies = halfCopiesOfVariables(program)
  const kept = new Set<Buffer>()
  const ofVariables = program.instructions.map(instruction =>
    storing(
      reading(instruction, ({ allocation }) => halfCopies.get(allocation)),
      ({ allocation }) => {
        if (halfCopies.has(allocation)) kept.add(allocation)
        return halfCopies.get(allocation)
      },
    ),
  )
  const temporaries = new Set(halfTemporaries({ ...program, instructions: ofVariables }))
  const copies = halfCopiesOfTemporaries(ofVariables, temporaries, bindings)
  const instructions = ofVariables.map(instruction => {
    const copyOf = (buffer: Buffer) => copies.get(buffer)
    return storing(reading(instruction, copyOf), copyOf)
  })
  const half = new Set([...halfCopies.values(), ...temporaries, ...copies.values()])
  const typeOf = (buffer: Buffer): ElementType => (half.has(buffer.allocation) ? 'f16' : plainType(buffer))
  return { program: { ...program, instructions }, typeOf, halfCopies, kept }
}

/** Buffers for f16 copies of the variables that products read. */
function halfCopiesOfVariables({ instructions }: Program): Map<Buffer, Buffer> {
  // A variable that a product is added to stays float32, and products read it as that.
  const summed = new Set(
    instructions.flatMap(({ work, writes }) =>
      work.kind === 'rows' ? [] : writes.map(({ allocation }) => allocation),
    ),
  )
  const read = instructions.flatMap(({ work }) =>
    work.kind === 'matmul' ? [work.a.buffer.allocation, work.b.buffer.allocation] : [],
  )
  const wanted = read.filter(
    variable => variable.variable && variable.dtype === 'float32' && !summed.has(variable),
  )
  return new Map(wanted.map(variable => [variable, new Buffer(variable.size, 'float32')]))
}

/**
 * Buffers for f16 copies of float32 temporaries that several products read, such as gradients of the residual stream. For
 * a single reader a copy would cost as much as it saves, and more if its kernel binds as many buffers as it can.
 */
function halfCopiesOfTemporaries(
  instructions: readonly Instruction[],
  isHalf: ReadonlySet<Buffer>,
  bindings: number,
): Map<Buffer, Buffer> {
  const reads = new Map<Buffer, number>()
  const writers = new Map<Buffer, Instruction[]>()
  for (const instruction of instructions) {
    const { work, writes } = instruction
    for (const buffer of writes) {
      const known = writers.get(buffer)
      if (known) known.push(instruction)
      else writers.set(buffer, [instruction])
    }
    if (work.kind !== 'matmul') continue
    for (const { buffer } of [work.a, work.b]) reads.set(buffer, (reads.get(buffer) ?? 0) + 1)
  }
  const wanted = [...reads].flatMap(([buffer, count]) => {
    const { allocation, dtype } = buffer
    const [writer, other] = writers.get(buffer) ?? []
    const isPlain = !allocation.variable && dtype === 'float32' && !isHalf.has(allocation)
    const isAlone = writer?.work.kind === 'rows' && !other && allocationsOf(writer.work).size < bindings
    return count > 1 && isPlain && isAlone ? [buffer] : []
  })
  return new Map(wanted.map(buffer => [buffer, new Buffer(buffer.size, 'float32')]))
}

/** A product that reads copies where there are any. */
function reading(instruction: Instruction, copyOf: (buffer: Buffer) => Buffer | undefined): Instruction {
  const { work } = instruction
  if (work.kind !== 'matmul') return instruction
  const copied = (matrix: Matrix): Matrix => ({ ...matrix, buffer: copyOf(matrix.buffer) ?? matrix.buffer })
  const changed = { ...work, a: copied(work.a), b: copied(work.b) }
  const { a, b, addend } = changed
  const reads = [...new Set([a.buffer, b.buffer, ...(addend ? [addend.buffer] : [])])]
  return { ...instruction, work: changed, reads }
}

/** The instruction with stores of copies added, if it is a row program. */
function storing(instruction: Instruction, copyOf: (buffer: Buffer) => Buffer | undefined): Instruction {
  const { work, writes } = instruction
  if (work.kind !== 'rows') return instruction
  const copies = work.stores.flatMap(({ access, value }) => {
    const copy = access.buffer && copyOf(access.buffer)
    return copy ? [{ value, access: { ...access, buffer: copy } }] : []
  })
  return {
    ...instruction,
    work: { ...work, stores: [...work.stores, ...copies] },
    writes: [...writes, ...copies.map(({ access }) => access.buffer)],
  }
}

/** bool is stored as 0 or −1. */
const plainType: TypeOf = ({ dtype }) => (dtype === 'float32' ? 'f32' : 'i32')

/**
 * Memory has one type, so a result of one type does not reuse the memory of the other. The scheduler, which knows no
 * types, may have made it an alias: this undoes that, in the program's own buffers.
 */
function separateTypes(instructions: readonly Instruction[], isHalf: (buffer: Buffer) => boolean): void {
  for (const { writes } of instructions) {
    for (const buffer of writes)
      if (buffer.aliasOf && !buffer.allocation.variable && isHalf(buffer) !== isHalf(buffer.aliasOf))
        buffer.separate()
  }
}

/**
 * Temporaries that may be f16: those that only products and attention read, and the results of products of activations,
 * whoever reads them, as usual in mixed precision (Micikevicius et al. 2018). Sums that continue in memory, such as
 * gradients of weights and the residual stream, stay float32.
 */
function halfTemporaries({ instructions, inputs, outputs }: Program): Buffer[] {
  const wide = new Set<Buffer>([...inputs, ...outputs.map(({ buffer }) => buffer)])
  const loaded = new Set<Buffer>()
  const multiplied = new Set<Buffer>()
  const produced = new Set<Buffer>()
  const add = (set: Set<Buffer>, ...buffers: (Buffer | undefined)[]) => {
    for (const buffer of buffers) if (buffer) set.add(buffer)
  }
  const addViews = (set: Set<Buffer>, ...views: (View | undefined)[]) =>
    add(set, ...views.map(view => view?.buffer))
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
        add(wide, work.addend?.buffer)
        // A product with a transposed a is a gradient of weights.
        if (!work.addend && !work.a.transposed) produced.add(work.c.buffer)
        break
      case 'scatterAdd':
        add(wide, work.values.buffer, work.indices.buffer, work.base?.buffer, work.out.buffer)
        break
      // Results are sums of products, but for logSumExp and the slope's gradient.
      case 'attention': {
        const { query, key, value, slope } = work.operands
        const { out, logSumExp } = work.results
        addViews(multiplied, query, key, value)
        addViews(produced, out)
        addViews(wide, slope, logSumExp)
        break
      }
      case 'attentionGradient': {
        const { query, key, value, slope, out, logSumExp, outGradient } = work.operands
        const { results } = work
        addViews(multiplied, query, key, value, out, outGradient)
        addViews(produced, results.query, results.key, results.value)
        addViews(wide, slope, logSumExp, results.slope)
        break
      }
    }
  }
  const mayBeHalf = (buffer: Buffer) =>
    !buffer.allocation.variable &&
    buffer.dtype === 'float32' &&
    !wide.has(buffer) &&
    (produced.has(buffer) || (multiplied.has(buffer) && !loaded.has(buffer)))
  separateTypes(instructions, mayBeHalf)
  const roots = new Map<Buffer, boolean>()
  for (const { reads, writes } of instructions) {
    for (const buffer of [...reads, ...writes])
      roots.set(buffer.allocation, (roots.get(buffer.allocation) ?? true) && mayBeHalf(buffer))
  }
  return [...roots].flatMap(([root, isHalf]) => (isHalf ? [root] : []))
}
