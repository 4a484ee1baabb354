// Addresses, loads and stores of a row program's operands, in WGSL.
import type { Access, Buffer, RowProgram } from '../../../compiler/program.ts'
import type { DType } from '../../../graph/operations.ts'
import { type Lanes, splat, valueType } from '../elementwise.ts'
import type { Bindings } from '../bindings.ts'
import type { Code } from './code.ts'
import { type RowPlan, vectorAllocations } from './row-plan.ts'

/** Repetitions of a row program in one kernel, each on other memory. */
export interface Batch {
  readonly count: number
  /**
   * For each buffer that differs between the repetitions, where the first one's elements start and the distance to the
   * next one's. All repetitions share the other buffers.
   */
  readonly operands: ReadonlyMap<Buffer, { readonly start: number; readonly stride: number }>
}

/** A vector of the row that an invocation is computing. */
export interface RowVector {
  /** WGSL for the vector's number in the row. It is in range even where isInside is false. */
  readonly unit: string
  /** A WGSL condition, where the vector may lie beyond the row's end. */
  readonly isInside: string | undefined
  /** The names of the values computed for it. */
  readonly known: Map<number, string>
  /** The registers that sum its columns; undefined where they are summed in memory. */
  readonly sums: readonly string[] | undefined
}

export class RowMemory {
  private readonly work: RowProgram
  private readonly lanes: Lanes
  private readonly batch: Batch
  private readonly bindings: Bindings
  private readonly code: Code
  private readonly vectorAllocations: ReadonlySet<Buffer>
  /** Where the current row starts in each operand. */
  private readonly rowStarts = new Map<Access, string>()
  /** Names of parts of addresses, by their expressions, so that operands share them. */
  private readonly indices = new Map<string, string>()

  constructor(work: RowProgram, { lanes }: RowPlan, batch: Batch, bindings: Bindings, code: Code) {
    this.work = work
    this.lanes = lanes
    this.batch = batch
    this.bindings = bindings
    this.code = code
    this.vectorAllocations = vectorAllocations(work, lanes)
  }

  /** The number of elements in one element of a buffer's WGSL array. */
  lanesIn({ allocation }: Buffer): Lanes {
    return this.vectorAllocations.has(allocation) ? this.lanes : 1
  }

  name(buffer: Buffer, writes = false): string {
    return this.bindings.name(buffer, { writes, lanes: this.lanesIn(buffer) })
  }

  /** Computes where a row starts in each operand that has an element for each column. */
  startRow(row: string): void {
    for (const { operation } of this.work.values)
      if (operation.kind === 'load' && operation.access.columnStride !== 0)
        this.rowStarts.set(
          operation.access,
          this.address(operation.access, row, this.unitOf(operation.access)),
        )
    for (const { access } of this.work.stores)
      if (access.columnStride !== 0)
        this.rowStarts.set(access, this.address(access, row, this.unitOf(access)))
  }

  /** Where the sums of a block's columns start, counted in vectors, or where its only sum is. */
  columnSumStart({ buffer, width }: RowProgram['columnSums'][number]): string {
    const lanes = width === 1 ? 1 : this.lanes
    const block = width === lanes ? 'block' : `block * ${width / lanes}u`
    return [block, ...this.repetitionStart(buffer, lanes)].join(' + ')
  }

  /** Loads an operand that has one element for a row or for the whole program. */
  loadSingle(access: Access, row: string, dtype: DType): string {
    const { buffer } = access
    const address = this.address(access, row, 1)
    if (!buffer) return this.index(`i32(${address})`)
    const lanes = this.lanesIn(buffer)
    const place = lanes === 1 ? `[${address}]` : `[${address} / ${lanes}u][${address} % ${lanes}u]`
    return this.code.let(this.converted(`${this.name(buffer)}${place}`, buffer, dtype, 1))
  }

  loadVector(vector: RowVector, access: Access, dtype: DType): string {
    const { lanes, code } = this
    const { buffer, columnStride } = access
    const rowStart = this.rowStarts.get(access) ?? '0u'
    if (!buffer) {
      const first = `i32(${rowStart} + ${vector.unit} * ${lanes * columnStride}u)`
      if (lanes === 1) return code.let(first)
      const rest = Array.from({ length: lanes }, (_, lane) => lane * columnStride).join(', ')
      return code.let(`${first} + vec${lanes}<i32>(${rest})`)
    }
    const name = this.name(buffer)
    if (this.lanesIn(buffer) > 1)
      return code.let(this.converted(`${name}[${rowStart} + ${vector.unit}]`, buffer, dtype, lanes))
    const first = this.firstAddress(vector, rowStart, columnStride)
    if (lanes === 1) return code.let(this.converted(`${name}[${first}]`, buffer, dtype, 1))
    const elements = Array.from({ length: lanes }, (_, lane) => `${name}[${first} + ${lane * columnStride}u]`)
    const loaded = `vec${lanes}<${this.bindings.type(buffer)}>(${elements.join(', ')})`
    return code.let(this.converted(loaded, buffer, dtype, lanes))
  }

  /** Stores a vector's value where the conditions hold. */
  storeVector(
    vector: RowVector,
    access: Access,
    value: string,
    dtype: DType,
    conditions: readonly string[],
  ): void {
    const { lanes, code } = this
    const buffer = storeBuffer(access)
    const name = this.name(buffer, true)
    const rowStart = this.rowStarts.get(access) ?? '0u'
    const stored = code.let(this.stored(value, buffer, dtype, lanes))
    const guard = conditions.join(' && ')
    if (guard) code.push(`if (${guard}) {`)
    if (this.lanesIn(buffer) > 1) code.push(`${name}[${rowStart} + ${vector.unit}] = ${stored};`)
    else {
      const first = this.firstAddress(vector, rowStart, access.columnStride)
      for (let lane = 0; lane < lanes; lane++) {
        const element = lanes === 1 ? stored : `${stored}[${lane}]`
        code.push(`${name}[${first} + ${lane * access.columnStride}u] = ${element};`)
      }
    }
    if (guard) code.push('}')
  }

  /** Stores the one value of a row, inside a condition. */
  storeSingle(access: Access, row: string, value: string, dtype: DType): void {
    const buffer = storeBuffer(access)
    const stored = this.stored(value, buffer, dtype, 1)
    // Code outside of the condition cannot use what is declared in it.
    const outside = new Map(this.indices)
    const address = this.address(access, row, 1)
    this.indices.clear()
    for (const [expression, name] of outside) this.indices.set(expression, name)
    this.code.push(`${this.name(buffer, true)}[${address}] = ${stored};`)
  }

  /** A part of an address, which other addresses may use too. */
  private index(expression: string): string {
    const known = this.indices.get(expression) ?? this.code.let(expression)
    this.indices.set(expression, known)
    return known
  }

  private unitOf({ buffer }: Access): number {
    return buffer ? this.lanesIn(buffer) : 1
  }

  /** Where a row starts in an operand, counted in units of so many elements. */
  private address(access: Access, row: string, unit: number): string {
    const { offset, rowDims, gather } = access
    const terms = [...(offset > 0 ? [`${offset / unit}u`] : []), ...this.repetitionStart(access.buffer, unit)]
    if (gather) {
      const index = this.loadSingle(gather.indices, row, 'int32')
      const clamped = this.index(`u32(clamp(${index}, 0, ${gather.limit - 1}))`)
      terms.push(`${clamped} * ${gather.rowStride / unit}u`)
    }
    let rest = row
    rowDims.toReversed().forEach(([extent, stride], i) => {
      const isOutermost = i === rowDims.length - 1
      if (stride !== 0) {
        const index = isOutermost ? rest : this.index(`${rest} % ${extent}u`)
        terms.push(stride === unit ? index : `${index} * ${stride / unit}u`)
      }
      if (!isOutermost) rest = this.index(`${rest} / ${extent}u`)
    })
    return terms.length === 0 ? '0u' : this.index(terms.join(' + '))
  }

  /** Where a repetition's elements of a buffer start, in units of so many; nothing where all use the same ones. */
  private repetitionStart(buffer: Buffer | undefined, unit: number): string[] {
    const operand = buffer && this.batch.operands.get(buffer.allocation)
    return operand ? [`${operand.start / unit}u + instance * ${operand.stride / unit}u`] : []
  }

  private firstAddress({ unit }: RowVector, rowStart: string, columnStride: number): string {
    const step = this.lanes * columnStride
    const offset = step === 1 ? unit : `${unit} * ${step}u`
    return this.code.let(rowStart === '0u' ? offset : `${rowStart} + ${offset}`)
  }

  /** Converts what memory holds to a value. */
  private converted(loaded: string, buffer: Buffer, dtype: DType, lanes: Lanes): string {
    if (this.bindings.type(buffer) === 'f16') return `${valueType('float32', lanes)}(${loaded})`
    return dtype === 'bool' ? `${loaded} != ${splat('0', 'int32', lanes)}` : loaded
  }

  /** Converts a value to what memory holds. */
  private stored(value: string, buffer: Buffer, dtype: DType, lanes: Lanes): string {
    if (dtype === 'bool')
      return `select(${splat('0', 'int32', lanes)}, ${splat('-1', 'int32', lanes)}, ${value})`
    if (this.bindings.type(buffer) !== 'f16') return value
    const half = lanes === 1 ? 'f16' : `vec${lanes}<f16>`
    const limit = (bound: string) => splat(bound, 'float32', lanes)
    return `${half}(clamp(${value}, ${limit('-65504f')}, ${limit('65504f')}))`
  }
}

function storeBuffer({ buffer }: Access): Buffer {
  if (!buffer) throw new Error('a row program stores to no memory')
  return buffer
}
