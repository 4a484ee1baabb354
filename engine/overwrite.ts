import type { Access, Buffer, RowProgram } from './program.ts'

/**
 * Whether a row program may store a value where it loads a buffer from: every load is of the very
 * element that is stored, and none happens in a pass over the row after the one that stores.
 */
export function overwritable(work: RowProgram, loaded: Buffer, access: Access, stored: number): boolean {
  const { values } = work
  const passes: number[] = []
  for (const { inputs } of values) {
    passes.push(
      Math.max(
        0,
        ...inputs.map(input => passes[input] + (values[input].operation.kind === 'reduce' ? 1 : 0)),
      ),
    )
  }
  // Anything but a reduction's result may be computed anew from its loads when it is next used.
  const lastUse = [...passes]
  for (let i = values.length - 1; i >= 0; i--) {
    if (values[i].operation.kind === 'reduce') lastUse[i] = passes[i]
    for (const input of values[i].inputs) lastUse[input] = Math.max(lastUse[input], lastUse[i])
  }
  return values.every(({ operation }, i) => {
    if (operation.kind !== 'load') return true
    if (operation.access.gather?.indices.buffer === loaded) return false
    return (
      operation.access.buffer !== loaded ||
      (sameAccess(operation.access, access) && lastUse[i] <= passes[stored])
    )
  })
}

export function sameAccess(a: Access, b: Access): boolean {
  const dims = (access: Access) => access.rowDims.join(';')
  return (
    !a.gather &&
    !b.gather &&
    a.offset === b.offset &&
    a.columnStride === b.columnStride &&
    dims(a) === dims(b)
  )
}
