// Splits row programs that use more buffers than a kernel may bind.
import { type Access, Buffer, type RowProgram, type RowValue } from '../../compiler/program.ts'
import { allocationsOf } from '../kernels/rows/analysis.ts'
import { RowBuilder } from './row-builder.ts'

/** An output of the program: a value that is stored, or the sums of its columns. */
type Output =
  | { readonly kind: 'store'; readonly value: number; readonly access: Access }
  | { readonly kind: 'sum'; readonly value: number; readonly buffer: Buffer; readonly width: number }

/** Some of a program's values and outputs, which become a program of their own. */
interface Piece {
  readonly values: Set<number>
  readonly outputs: Output[]
  readonly allocations: Set<Buffer>
}

/** Buffers in which pieces pass values on: one of floats, and one of integers. */
const passingBuffers = 2

/**
 * Splits a program that uses more than `limit` buffers into several that do not. An earlier one stores the values that a
 * later one needs.
 */
export function splitByBindings(work: RowProgram, limit: number): RowProgram[] {
  return allocationsOf(work).size <= limit ? [work] : new Splitter(work, limit).split()
}

class Splitter {
  private readonly work: RowProgram
  private readonly limit: number
  /** Allocations that the program both loads and stores. */
  private readonly inPlace: ReadonlySet<Buffer>
  private readonly pieces: Piece[] = []
  /** The piece that computes each value. */
  private readonly pieceOf = new Map<number, Piece>()
  /** For each value that is stored for later pieces, its first element in the passing buffer. */
  private readonly offsets = new Map<number, number>()
  private readonly sizes = { float32: 0, int32: 0 }

  constructor(work: RowProgram, limit: number) {
    this.work = work
    this.limit = limit
    const stored = new Set(work.stores.map(({ access }) => access.buffer?.allocation))
    const loaded = allocationsOf({ values: work.values, stores: [], columnSums: [] })
    this.inPlace = new Set([...loaded].filter(allocation => stored.has(allocation)))
    this.begin()
  }

  split(): RowProgram[] {
    const { stores, columnSums } = this.work
    const outputs: Output[] = [
      ...stores.map(store => ({ kind: 'store' as const, ...store })),
      ...columnSums.map(sum => ({ kind: 'sum' as const, ...sum })),
    ]
    const isInPlace = (output: Output) =>
      output.kind === 'store' &&
      output.access.buffer !== undefined &&
      this.inPlace.has(output.access.buffer.allocation)
    const [late, early] = [outputs.filter(isInPlace), outputs.filter(output => !isInPlace(output))]
    for (const output of early) {
      this.compute(output.value)
      this.output(output)
    }
    // Memory that later pieces might load is overwritten last, when all values are computed.
    for (const { value } of late) this.compute(value)
    this.begin()
    for (const output of late) this.output(output)
    const buffers = {
      float32: new Buffer(this.sizes.float32, 'float32'),
      int32: new Buffer(this.sizes.int32, 'int32'),
    }
    return this.pieces
      .map(piece => this.program(piece, buffers))
      .filter(({ stores, columnSums }) => stores.length + columnSums.length > 0)
  }

  private begin(): void {
    this.pieces.push({ values: new Set(), outputs: [], allocations: new Set() })
  }

  private get piece(): Piece {
    return this.pieces[this.pieces.length - 1]
  }

  /** Adds allocations to the last piece, or begins a new one where they do not fit. */
  private reserve(allocations: readonly Buffer[]): void {
    const all = new Set([...this.piece.allocations, ...allocations])
    if (all.size > this.limit - passingBuffers) this.begin()
    for (const allocation of allocations) this.piece.allocations.add(allocation)
  }

  /** Adds a value to the last piece, unless an earlier one computes it. */
  private compute(index: number): void {
    if (this.pieceOf.has(index)) return
    const value = this.work.values[index]
    for (const input of value.inputs) this.compute(input)
    if (isFree(value)) return
    this.reserve([...allocationsOf({ values: [value], stores: [], columnSums: [] })])
    for (const input of value.inputs) this.use(input)
    this.piece.values.add(index)
    this.pieceOf.set(index, this.piece)
  }

  private output(output: Output): void {
    const buffer = output.kind === 'store' ? output.access.buffer : output.buffer
    this.reserve(buffer ? [buffer.allocation] : [])
    this.use(output.value)
    this.piece.outputs.push(output)
  }

  /** Makes room to pass a value on, if an earlier piece than the last computes it. */
  private use(index: number): void {
    const value = this.work.values[index]
    if (isFree(value) || this.pieceOf.get(index) === this.piece || this.offsets.has(index)) return
    const kind = bufferType(value)
    this.offsets.set(index, this.sizes[kind])
    // Multiples of four, so that it can be read in vectors.
    this.sizes[kind] += Math.ceil(this.sizeOf(value) / 4) * 4
  }

  private sizeOf({ extent }: RowValue): number {
    const { rows, columns } = this.work
    return extent === 'uniform' ? 1 : extent === 'row' ? rows : rows * columns
  }

  private program(piece: Piece, buffers: Readonly<Record<'float32' | 'int32', Buffer>>): RowProgram {
    const { rows, columns, values } = this.work
    const builder = new RowBuilder(values)
    const passed = (index: number): Access => {
      const { extent } = values[index]
      const columnStride = extent === 'element' ? 1 : 0
      return {
        buffer: buffers[bufferType(values[index])],
        offset: this.offsets.get(index) ?? 0,
        rowDims: extent === 'uniform' || rows === 1 ? [] : [[rows, extent === 'element' ? columns : 1]],
        columnStride,
      }
    }
    const replace = (value: RowValue, index: number) =>
      piece.values.has(index) || isFree(value) ? undefined : builder.load(passed(index), value.dtype)
    const copied = piece.outputs.map(output => ({ output, value: builder.copy(output.value, replace) }))
    const passing = [...piece.values]
      .filter(index => this.offsets.has(index))
      .map(index => ({ value: builder.copy(index, replace), access: passed(index) }))
    return {
      ...this.work,
      values: builder.values,
      stores: [
        ...copied.flatMap(({ output, value }) =>
          output.kind === 'store' ? [{ value, access: output.access }] : [],
        ),
        ...passing,
      ],
      columnSums: copied.flatMap(({ output, value }) =>
        output.kind === 'sum' ? [{ value, buffer: output.buffer, width: output.width }] : [],
      ),
    }
  }
}

/** Whether a value depends on no memory and no other values, so that each piece can compute it. */
const isFree = ({ operation }: RowValue): boolean =>
  operation.kind === 'constant' ||
  (operation.kind === 'load' && !operation.access.buffer && !operation.access.gather?.indices.buffer)

/** The passing buffer for a value; bool is stored as integers. */
const bufferType = ({ dtype }: RowValue): 'float32' | 'int32' => (dtype === 'float32' ? 'float32' : 'int32')
