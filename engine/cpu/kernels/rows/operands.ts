/** The operands of a row program's kernel, and a key that tells which programs can share a kernel. */
import type { Access, RowProgram, RowValue } from '../../../compiler/program.ts'
import type { KernelOperand } from '../kernel.ts'

/** A row program's accesses, in the order of its kernel's arguments. */
export function accessesOf({ values, stores }: RowProgram): Access[] {
  const loads = values.flatMap(({ operation }) => {
    if (operation.kind !== 'load') return []
    const { access } = operation
    return access.gather ? [access, access.gather.indices] : [access]
  })
  return [...loads, ...stores.map(({ access }) => access)]
}

/** A row program's operands, in the order of its kernel's arguments. */
export function rowOperands(program: RowProgram): KernelOperand[] {
  const accesses = accessesOf(program).flatMap(({ buffer, offset }) => (buffer ? [{ buffer, offset }] : []))
  return [...accesses, ...program.columnSums.map(({ buffer }) => ({ buffer, offset: 0 }))]
}

/** A text that is equal for programs with equal kernels: everything about a program except where its operands are. */
export function rowKey({ rows, columns, rowBlock, values, stores, columnSums }: RowProgram): string {
  const accessKey = ({ buffer, offset, rowDims, columnStride, gather }: Access): string => {
    const indices = gather ? `${accessKey(gather.indices)} ${gather.rowStride} ${gather.limit}` : ''
    return `${buffer ? '' : offset}[${rowDims.join(';')}]${columnStride}{${indices}}`
  }
  const valueKey = ({ operation, inputs, extent, dtype }: RowValue): string => {
    let what = 'name' in operation ? operation.name : ''
    if (operation.kind === 'load') what = accessKey(operation.access)
    if (operation.kind === 'constant') what = Object.is(operation.value, -0) ? '-0' : `${operation.value}`
    return `${operation.kind} ${what} ${inputs.join()} ${extent} ${dtype}`
  }
  return [
    `${rows} ${columns} ${rowBlock}`,
    ...values.map(valueKey),
    ...stores.map(({ value, access }) => `${value}>${accessKey(access)}`),
    ...columnSums.map(({ value, width }) => `${value}+${width}`),
  ].join('\n')
}
