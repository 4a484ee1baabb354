/** Programs: what the compiler hands to a backend. Instructions, the buffers that they use, and how they use them. */
import type { AttentionOptions, BinaryName, DType, UnaryName } from '../graph/operations.ts'
import type { Origin } from '../graph/origins.ts'
import type { Shape } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'

/** Memory for a number of elements, 4 bytes each unless a backend stores them otherwise. A backend gives it an address. */
export class Buffer {
  readonly size: number
  readonly dtype: DType
  /** The variable whose memory it is. It outlives the program's runs. */
  readonly variable: Tensor | undefined
  private source: Buffer | undefined
  /** A buffer nearer to the end of the chain of aliases; valid while `age` equals `changes`. */
  private shortcut: Buffer | undefined
  private age = 0
  /** How often a chain of aliases was cut anywhere. */
  private static changes = 0

  constructor(size: number, dtype: DType, variable?: Tensor) {
    this.size = size
    this.dtype = dtype
    this.variable = variable
  }

  /** The buffer whose memory this one reuses, once nothing reads the other's contents any more. */
  get aliasOf(): Buffer | undefined {
    return this.source
  }
  set aliasOf(source: Buffer) {
    if (this.source) Buffer.changes++
    this.source = source
  }

  /** Undoes aliasOf: this buffer, and those that reuse its memory, get memory of their own. */
  separate(): void {
    if (this.source) Buffer.changes++
    this.source = undefined
  }

  /** The buffer at the end of the chain of aliases: two buffers share memory if theirs are the same. */
  get allocation(): Buffer {
    const { next } = this
    if (!next) return this
    let root = next
    for (let beyond = root.next; beyond; beyond = root.next) root = beyond
    // Chains may be as long as a network is deep. Shortcuts make the next look-up take one step.
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

/** A tensor's elements in a buffer: element [i, j, ...] is at offset + i·strides[0] + j·strides[1] + ... */
export interface View {
  readonly buffer: Buffer
  readonly offset: number
  readonly shape: Shape
  readonly strides: readonly number[]
}

/** Where element (r, c) of a [rows, columns] operand is. */
export interface Access {
  /** undefined for an iota, which has no memory: an element's value is its address. */
  readonly buffer: Buffer | undefined
  readonly offset: number
  /** The dimensions that r runs through, outermost first; none if all rows are the same. */
  readonly rowDims: readonly (readonly [extent: number, stride: number])[]
  readonly columnStride: number
  /** The row to read is not r but indices[r], clamped to 0 ... limit - 1. */
  readonly gather?: { readonly indices: Access; readonly rowStride: number; readonly limit: number }
}

/** Whether a value of a row program exists once, once for each row, or once for each element. */
export type Extent = 'uniform' | 'row' | 'element'

/** A value of a row program. inputs are indices of earlier values. */
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

/** Elementwise operations and reductions over the last axis, fused into one kernel. */
export interface RowProgram {
  readonly kind: 'rows'
  readonly rows: number
  readonly columns: number
  /** Rows in a block. Threads share out blocks, and each block has column sums of its own. */
  readonly rowBlock: number
  readonly values: readonly RowValue[]
  readonly stores: readonly { readonly value: number; readonly access: Access }[]
  /** Sums over the rows of each block, [blocks, width]. width is columns, or 1 for a value with one element in each row. */
  readonly columnSums: readonly { readonly value: number; readonly buffer: Buffer; readonly width: number }[]
}

/** A matrix of a product, or a batch of them. transposed: stored by columns, so rowStride is from column to column. */
export interface Matrix {
  readonly buffer: Buffer
  readonly offset: number
  readonly rowStride: number
  readonly transposed: boolean
  readonly batchStride: number
}

/** c = a·b, or a·b + addend. */
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

/** out [rows, columns] = base, or zeros; then out[indices[i]] += values[i] for each row i of values [count, columns]. */
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

/** What causal attention and its gradient have in common. */
interface AttentionSizes extends AttentionOptions {
  readonly batch: number
  readonly length: number
  readonly keyDim: number
  readonly valueDim: number
}

/** What attention reads: query, key and value are [batch, length, heads · width], slope is [heads]. */
export interface AttentionOperands {
  readonly query: View
  readonly key: View
  readonly value: View
  readonly slope?: View | undefined
}

/** Causal attention. Of each query's scores it also keeps logSumExp [batch, heads, length], for the gradient. */
export interface AttentionForward extends AttentionSizes {
  readonly kind: 'attention'
  readonly operands: AttentionOperands
  readonly results: { readonly out: View; readonly logSumExp: View }
}

/** The gradients of attention's operands. The slope's is [batch, heads]: one for each sequence. */
export interface AttentionGradient extends AttentionSizes {
  readonly kind: 'attentionGradient'
  readonly operands: AttentionOperands & {
    readonly out: View
    readonly logSumExp: View
    readonly outGradient: View
  }
  readonly results: AttentionOperands
}

export type Attention = AttentionForward | AttentionGradient

export type Work = RowProgram | Matmul | ScatterAdd | Attention

/** An operation of the graph that an instruction computes. */
export interface TracedOperation {
  /** Such as 'multiply', 'row sum' or 'copy'. */
  readonly name: string
  readonly origin: Origin | undefined
  /** Elements that it goes through. */
  readonly elements: number
}

export interface Instruction {
  readonly work: Work
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  /** Rows in a block, if it can run block by block of rows. */
  readonly rowBlock?: number | undefined
  /**
   * Whether a thread may run it on a block of rows right after the previous instruction on the same block: of what that
   * one and those chained before it wrote, it reads the same block only.
   */
  readonly sharesRowBlocks: boolean
  /** The operations of the graph that it computes, if origins were recorded. */
  readonly operations?: readonly TracedOperation[]
}

/** A compiled function, for any backend. */
export interface Program {
  /** In an order in which they can run. */
  readonly instructions: readonly Instruction[]
  /** The caller fills them before a run; in the order of the function's inputs. */
  readonly inputs: readonly Buffer[]
  /** The caller reads them after a run. */
  readonly outputs: readonly View[]
  readonly variables: readonly Buffer[]
}

const listOf = ({ query, key, value, slope }: AttentionOperands): View[] => [
  query,
  key,
  value,
  ...(slope ? [slope] : []),
]

/** An attention's operands as a list, in the order in which the CPU's kernels take them. */
export function attentionOperands({ kind, operands }: Attention): View[] {
  if (kind === 'attention') return listOf(operands)
  return [...listOf(operands), operands.out, operands.logSumExp, operands.outGradient]
}

/** An attention's results as a list, in the order in which the CPU's kernels take them. */
export function attentionResults({ kind, results }: Attention): View[] {
  return kind === 'attention' ? [results.out, results.logSumExp] : listOf(results)
}

/** The buffers that an instruction's work reads and writes, each once. */
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
        reads: unique(attentionOperands(work).map(({ buffer }) => buffer)),
        writes: unique(attentionResults(work).map(({ buffer }) => buffer)),
      }
  }
}
