import { type Access, Buffer, type RowProgram, type RowValue } from '../../../compiler/program.ts'
import { RowBuilder, rootsOf } from '../../passes/row-programs.ts'

/** Where one program's outputs go: memory that a value is stored to, or the sums of its columns. */
type Output =
  | { readonly kind: 'store'; readonly value: number; readonly access: Access }
  | { readonly kind: 'sum'; readonly value: number; readonly buffer: Buffer; readonly width: number }

/** Some of a program's values and outputs, to be a program of their own. */
interface Piece {
  readonly values: Set<number>
  readonly outputs: Output[]
  readonly roots: Set<Buffer>
}

/** Buffers for what pieces hand on: one of floats, and one of whole numbers. */
const handedOn = 2

/**
 * A program that uses more than so many buffers as several that do not: what a later one needs of an earlier one's
 * values is stored between them.
 */
export function splitByBuffers(work: RowProgram, limit: number): RowProgram[] {
  return rootsOf(work).size <= limit ? [work] : new Splitter(work, limit).split()
}

class Splitter {
  private readonly work: RowProgram
  private readonly limit: number
  /** Memory that is both loaded and stored. */
  private readonly overwritten: ReadonlySet<Buffer>
  private readonly pieces: Piece[] = []
  /** The piece that computes a value. */
  private readonly homes = new Map<number, Piece>()
  /** Values that are stored for later pieces, and the first element of each in its buffer. */
  private readonly offsets = new Map<number, number>()
  private readonly sizes = { float32: 0, int32: 0 }

  constructor(work: RowProgram, limit: number) {
    this.work = work
    this.limit = limit
    const stored = new Set(work.stores.map(({ access }) => access.buffer?.allocation))
    const loaded = rootsOf({ values: work.values, stores: [], columnSums: [] })
    this.overwritten = new Set([...loaded].filter(root => stored.has(root)))
    this.begin()
  }

  split(): RowProgram[] {
    const { stores, columnSums } = this.work
    const outputs: Output[] = [
      ...stores.map(store => ({ kind: 'store' as const, ...store })),
      ...columnSums.map(sum => ({ kind: 'sum' as const, ...sum })),
    ]
    const overwrites = (output: Output) =>
      output.kind === 'store' &&
      output.access.buffer !== undefined &&
      this.overwritten.has(output.access.buffer.allocation)
    const [late, early] = [outputs.filter(overwrites), outputs.filter(output => !overwrites(output))]
    for (const output of early) {
      this.compute(output.value)
      this.output(output)
    }
    // What later pieces might load is overwritten once all is computed.
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
    this.pieces.push({ values: new Set(), outputs: [], roots: new Set() })
  }

  private get piece(): Piece {
    return this.pieces[this.pieces.length - 1]
  }

  /** Makes room for more memory, in a new piece if need be. */
  private reserve(roots: readonly Buffer[]): void {
    if (new Set([...this.piece.roots, ...roots]).size > this.limit - handedOn) this.begin()
    for (const root of roots) this.piece.roots.add(root)
  }

  /** Has the last piece compute a value, unless one does already. */
  private compute(index: number): void {
    if (this.homes.has(index)) return
    const value = this.work.values[index]
    for (const input of value.inputs) this.compute(input)
    if (isFree(value)) return
    this.reserve([...rootsOf({ values: [value], stores: [], columnSums: [] })])
    for (const input of value.inputs) this.use(input)
    this.piece.values.add(index)
    this.homes.set(index, this.piece)
  }

  private output(output: Output): void {
    const buffer = output.kind === 'store' ? output.access.buffer : output.buffer
    this.reserve(buffer ? [buffer.allocation] : [])
    this.use(output.value)
    this.piece.outputs.push(output)
  }

  /** Has a value stored if an earlier piece than the last computes it. */
  private use(index: number): void {
    const value = this.work.values[index]
    if (isFree(value) || this.homes.get(index) === this.piece || this.offsets.has(index)) return
    const kind = bufferType(value)
    this.offsets.set(index, this.sizes[kind])
    // Multiples of four, for vectors.
    this.sizes[kind] += Math.ceil(this.sizeOf(value) / 4) * 4
  }

  private sizeOf({ extent }: RowValue): number {
    const { rows, columns } = this.work
    return extent === 'uniform' ? 1 : extent === 'row' ? rows : rows * columns
  }

  private program(piece: Piece, buffers: Readonly<Record<'float32' | 'int32', Buffer>>): RowProgram {
    const { rows, columns, values } = this.work
    const builder = new RowBuilder(values)
    const place = (index: number): Access => {
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
      piece.values.has(index) || isFree(value) ? undefined : builder.load(place(index), value.dtype)
    const copied = piece.outputs.map(output => ({ output, value: builder.copy(output.value, replace) }))
    const handed = [...piece.values]
      .filter(index => this.offsets.has(index))
      .map(index => ({ value: builder.copy(index, replace), access: place(index) }))
    return {
      ...this.work,
      values: builder.values,
      stores: [
        ...copied.flatMap(({ output, value }) =>
          output.kind === 'store' ? [{ value, access: output.access }] : [],
        ),
        ...handed,
      ],
      columnSums: copied.flatMap(({ output, value }) =>
        output.kind === 'sum' ? [{ value, buffer: output.buffer, width: output.width }] : [],
      ),
    }
  }
}

/** Whether a value is had without memory or earlier values. */
const isFree = ({ operation }: RowValue): boolean =>
  operation.kind === 'constant' ||
  (operation.kind === 'load' && !operation.access.buffer && !operation.access.gather?.indices.buffer)

/** bool is stored as whole numbers. */
const bufferType = ({ dtype }: RowValue): 'float32' | 'int32' => (dtype === 'float32' ? 'float32' : 'int32')
