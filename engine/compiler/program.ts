import type { AttentionOptions, BinaryName, DType, UnaryName } from '../graph/operations.ts'
import type { Shape } from '../graph/shape.ts'
import type { TracedOperation } from './traced.ts'
import type { Variable } from '../runtime/variable.ts'

/** Memory for some elements of 4 bytes each, which a backend places. */
export class Buffer {
  readonly size: number
  readonly dtype: DType
  /** The variable whose own memory it is, which outlives the program's runs. */
  readonly variable: Variable | undefined
  private source: Buffer | undefined
  /** A buffer further along the way to the root; valid while no buffer has given up its source since `age`. */
  private shortcut: Buffer | undefined
  private age = 0
  /** How many times a buffer has given up its source. */
  private static changes = 0

  constructor(size: number, dtype: DType, variable?: Variable) {
    this.size = size
    this.dtype = dtype
    this.variable = variable
  }

  /** Set once results take over this memory from another buffer, which nothing reads any more. */
  get aliasOf(): Buffer | undefined {
    return this.source
  }
  set aliasOf(source: Buffer | undefined) {
    if (this.source) Buffer.changes++
    this.source = source
  }

  /** The buffer whose memory it is. */
  get allocation(): Buffer {
    const { next } = this
    if (!next) return this
    let root = next
    for (let beyond = root.next; beyond; beyond = root.next) root = beyond
    // Memory may be handed on from layer to layer: the next look-up takes one step.
    this.shorten(root)
    for (let passed = next, beyond = passed.next; beyond; beyond = passed.next) {
      passed.shorten(root)
      passed = beyond
    }
    return root
  }

  private shorten(root: Buffer): void {
    this.shortcut = root
    this.age = Buffer.changes
  }

  private get next(): Buffer | undefined {
    return this.shortcut && this.age === Buffer.changes ? this.shortcut : this.source
  }
}

/** A tensor's elements within a buffer: element [i, j, ...] at offset + i·strides[0] + j·strides[1] + ... */
export interface View {
  readonly buffer: Buffer
  readonly offset: number
  readonly shape: Shape
  readonly strides: readonly number[]
}

/** Where row r, column c of a [rows, columns] operand lies. */
export interface Access {
  /** undefined: no memory, the element is its own address (an iota). */
  readonly buffer: Buffer | undefined
  readonly offset: number
  /** Extents and strides that r counts through, outermost first; none when all rows are the same. */
  readonly rowDims: readonly (readonly [extent: number, stride: number])[]
  readonly columnStride: number
  /** Instead of r, the rows counted are those that this operand names, clamped to 0 ... limit - 1. */
  readonly gather?: { readonly indices: Access; readonly rowStride: number; readonly limit: number }
}

/** What a value of a row program has one of: for the whole program, for each row, for each element. */
export type Extent = 'uniform' | 'row' | 'element'

/** A value computed for each element or row; inputs are the numbers of earlier values. */
export interface RowValue {
  readonly operation:
    | { readonly kind: 'load'; readonly access: Access }
    | { readonly kind: 'constant'; readonly value: number }
    | { readonly kind: 'unary'; readonly name: UnaryName }
    | { readonly kind: 'binary'; readonly name: BinaryName }
    | { readonly kind: 'where' }
    | { readonly kind: 'reduce'; readonly name: 'sum' | 'max' }
  readonly inputs: readonly number[]
  readonly extent: Extent
  readonly dtype: DType
}

/** Elementwise operations and last-axis reductions over the same rows, in one pass over memory. */
export interface RowProgram {
  readonly kind: 'rows'
  readonly rows: number
  readonly columns: number
  /** Rows are done in blocks of this many; column sums are of one block each. */
  readonly rowBlock: number
  readonly values: readonly RowValue[]
  readonly stores: readonly { readonly value: number; readonly access: Access }[]
  /** Sums over each block's rows: [blocks, width], where width is columns or, for a value for each row, maybe 1. */
  readonly columnSums: readonly { readonly value: number; readonly buffer: Buffer; readonly width: number }[]
}

/** A matrix of a product, or a batch of them. transposed: stored with columns outermost. */
export interface Matrix {
  readonly buffer: Buffer
  readonly offset: number
  readonly rowStride: number
  readonly transposed: boolean
  readonly batchStride: number
}

/** c = a·b, or a·b + residual. */
export interface Matmul {
  readonly kind: 'matmul'
  readonly batch: number
  readonly m: number
  readonly n: number
  readonly k: number
  readonly a: Matrix
  readonly b: Matrix
  readonly c: Matrix
  readonly addend?: Matrix
}

/** Sums rows of values [count, columns] into rows of out [rows, columns] by index; out starts as base, or as zeros. */
export interface ScatterAdd {
  readonly kind: 'scatterAdd'
  readonly rows: number
  readonly columns: number
  readonly count: number
  readonly values: View
  readonly indices: View
  readonly base?: View
  readonly out: View
}

/** operands in the order of the graph's node; results in the order of its tuple. */
export interface Attention extends AttentionOptions {
  readonly kind: 'attention' | 'attentionGradient'
  readonly batch: number
  readonly length: number
  readonly keyDim: number
  readonly valueDim: number
  readonly operands: readonly View[]
  readonly results: readonly View[]
  readonly slope: boolean
}

export type Work = RowProgram | Matmul | ScatterAdd | Attention

export interface Instruction {
  readonly work: Work
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  /**
   * Whether it may follow the previous instruction block of rows by block of rows: what it reads of
   * a block, the same block of the instructions before wrote.
   */
  readonly sharesRowBlocks: boolean
  /** The operations of the graph that it computes, where origins were recorded. */
  readonly operations?: readonly TracedOperation[]
}

/** What a traced function was compiled to, for any backend. */
export interface Program {
  /** In an order that honours every dependency. */
  readonly instructions: readonly Instruction[]
  /** What the caller fills before a run, in the order of the function's inputs. */
  readonly inputs: readonly Buffer[]
  /** What the caller reads after a run. */
  readonly outputs: readonly View[]
  readonly variables: readonly Buffer[]
}

/** The buffers that a piece of work reads and writes, each once. */
export function buffersOf(work: Work): { reads: Buffer[]; writes: Buffer[] } {
  const unique = (buffers: (Buffer | undefined)[]) => [
    ...new Set(buffers.filter(buffer => buffer !== undefined)),
  ]
  switch (work.kind) {
    case 'rows':
      return {
        reads: unique(
          work.values.flatMap(({ operation }) =>
            operation.kind === 'load'
              ? [operation.access.buffer, operation.access.gather?.indices.buffer]
              : [],
          ),
        ),
        writes: unique([
          ...work.stores.map(({ access }) => access.buffer),
          ...work.columnSums.map(({ buffer }) => buffer),
        ]),
      }
    case 'matmul':
      return { reads: unique([work.a.buffer, work.b.buffer, work.addend?.buffer]), writes: [work.c.buffer] }
    case 'scatterAdd':
      return {
        reads: unique([work.values.buffer, work.indices.buffer, work.base?.buffer]),
        writes: [work.out.buffer],
      }
    case 'attention':
    case 'attentionGradient':
      return {
        reads: unique(work.operands.map(({ buffer }) => buffer)),
        writes: unique(work.results.map(({ buffer }) => buffer)),
      }
  }
}
