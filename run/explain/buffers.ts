/** Names for the memory that a program's kernels read and write. */
import type { Buffer, CompiledProgram, Step, Tensor, Work } from '../../engine/index.ts'
import { shapeText } from './words.ts'

/** The name of a buffer, and what else is to be said where it is written. */
export interface BufferName {
  readonly name: string
  /** Such as 'in place of t3'; empty where there is nothing to say. */
  readonly note: string
}

/**
 * Names a program's buffers: inputs and outputs as the traced function calls them, variables by `variables`, and temporaries
 * t1, t2, ... in the order in which they are written, with their shapes.
 */
export function nameBuffers(
  { program, inputs, outputNames }: CompiledProgram,
  steps: readonly Step[],
  variables: ReadonlyMap<Tensor, string>,
): (buffer: Buffer) => BufferName {
  const names = new Map<Buffer, BufferName>()
  program.inputs.forEach((buffer, i) => names.set(buffer, { name: inputs[i].name, note: '' }))
  const outputs = new Map(program.outputs.map(({ buffer }, i) => [buffer, outputNames[i]]))
  const shapes = shapesOf(steps)
  const unnamed = new Map<Tensor, string>()
  let temporaries = 0

  function variableName(variable: Tensor): string {
    const known = variables.get(variable) ?? unnamed.get(variable)
    if (known !== undefined) return known
    const name = `variable ${unnamed.size + 1} ${shapeText(variable.shape)}`
    unnamed.set(variable, name)
    return name
  }
  function make(buffer: Buffer): BufferName {
    const { allocation, aliasOf } = buffer
    const { variable } = allocation
    const output = outputs.get(buffer)
    const notes = output === undefined ? [] : [`output ${output}`]
    if (variable) {
      if (buffer !== allocation) notes.push('assigned')
      return { name: variableName(variable), note: notes.join(', ') }
    }
    if (aliasOf) notes.push(`in place of ${nameOf(aliasOf).name.split(' ')[0]}`)
    return { name: `t${++temporaries} ${shapes.get(buffer) ?? buffer.size}`, note: notes.join(', ') }
  }
  function nameOf(buffer: Buffer): BufferName {
    const name = names.get(buffer) ?? make(buffer)
    names.set(buffer, name)
    return name
  }
  for (const { kernels } of steps) for (const { writes } of kernels) writes.forEach(nameOf)
  return nameOf
}

/** The shapes of what kernels write, as far as they write whole buffers. */
function shapesOf(steps: readonly Step[]): Map<Buffer, string> {
  const shapes = new Map<Buffer, string>()
  for (const { role, instructions, writes } of steps.flatMap(({ kernels }) => kernels)) {
    for (const { work } of instructions) {
      if (role === 'pack' && work.kind === 'matmul')
        for (const buffer of writes) shapes.set(buffer, `packed ${shapeText([work.k, work.n])}`)
      for (const { buffer, shape } of written(work)) {
        const size = shape.reduce((product, extent) => product * extent, 1)
        if (buffer?.size === size && !shapes.has(buffer)) shapes.set(buffer, shapeText(shape))
      }
    }
  }
  return shapes
}

interface Written {
  readonly buffer: Buffer | undefined
  readonly shape: readonly number[]
}

/** What a piece of work writes. Columns of a wider matrix, such as a piece of a concat, stand for all of it. */
function written(work: Work): Written[] {
  switch (work.kind) {
    case 'rows': {
      const { rows, columns, stores, columnSums } = work
      return [
        ...stores.map(({ access: { buffer, rowDims, columnStride } }) => ({
          buffer,
          shape: columnStride === 0 ? [rows] : [rows, rowDims.at(-1)?.[1] ?? columns],
        })),
        ...columnSums.map(({ buffer, width }) => ({ buffer, shape: [buffer.size / width, width] })),
      ]
    }
    case 'matmul': {
      const { batch, m, c } = work
      return [{ buffer: c.buffer, shape: batch > 1 ? [batch, m, c.rowStride] : [m, c.rowStride] }]
    }
    case 'scatterAdd':
      return [{ buffer: work.out.buffer, shape: [work.rows, work.columns] }]
    case 'attention':
    case 'attentionGradient':
      return Object.values(work.results).filter(view => view !== undefined)
  }
}
