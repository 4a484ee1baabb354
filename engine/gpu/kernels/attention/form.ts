// What kernels of attention need of a way to multiply tiles: by multiply-add, or in subgroup matrices.
import type { Operand } from './operand.ts'
import type { Target } from '../kernel.ts'

/** A matrix that a workgroup sums in registers: weights · values for its rows and some of the columns. */
export interface Sum {
  readonly name: string
  /** The name of the vectors of weights, which a number follows. */
  readonly weights: string
  readonly values: Operand
  readonly out: Operand
  /** The factor of the finished sum. */
  readonly factor: number
  /** The number of columns that a workgroup sums. */
  readonly chunk: number
}

/**
 * How a workgroup multiplies tiles, and which elements of a tile of scores [rows, columns] each invocation has: vectors of
 * four elements of a row. The code needs uniform control flow, and has its own barriers.
 */
export interface Form {
  readonly name: string
  readonly rows: number
  readonly columns: number
  /** Invocations of a workgroup. */
  readonly size: number
  /** The most columns of all sums together that its registers hold. */
  readonly most: number
  /** The columns of each sum that a workgroup computes: an equal part of all, as large as its registers hold. */
  readonly chunks: readonly number[]
  /** The type that it multiplies: f32, or f16 in subgroup matrices. */
  readonly loads: 'f32' | 'f16'
  /** Expressions for the rows of the tile of which an invocation has elements. */
  readonly ownRows: readonly string[]
  /** An invocation's vectors: an index of ownRows, and the column of the first element. */
  readonly vectors: readonly { readonly row: number; readonly column: string }[]
  /** The distance in columns from one element of a vector to the next. */
  readonly columnStep: number
  /** The number of invocations that share a row, and an expression for the number of this one. */
  readonly sharers: { readonly count: number; readonly index: string }
  /** Module-scope declarations. */
  readonly declarations: string
  /** Statements at the start of the main function. */
  readonly prologue: string
  /**
   * Declares vectors name0, name1, ... of the product of left's rows from `rowStart` on with right's rows from
   * `columnStart` on, summed over all their columns.
   */
  product(name: string, left: Operand, right: Operand): string
  /** Declares the registers of a sum. */
  begin(sum: Sum): string
  /** Adds weights · values to a sum. values: the rows from `columnStart` on, of the chunk number `chunk`. */
  accumulate(sum: Sum): string
  /** Stores the sum. */
  finish(sum: Sum): string
  /** A statement that writes two floats to workgroup memory, which products overwrite. index < rows * sharers.count. */
  put(index: string, first: string, second: string): string
  /** An expression for the two floats, a vec2f. */
  get(index: string): string
}

export interface FormOptions {
  readonly rows: number
  readonly columns: number
  /** The columns of each sum. */
  readonly widths: readonly number[]
  /** The most bytes of workgroup memory. */
  readonly bytes: number
  readonly target: Target
}

/** Enough bytes of workgroup memory. With more, fewer workgroups run side by side. */
export const ampleBytes = 49152

export const roundUp = (x: number, multiple: number): number => Math.ceil(x / multiple) * multiple

/** A number as WGSL's f32. */
export const float = (value: number): string => `f32(${value})`

/** The depth of the slices in which a product is summed: at most `most`, and a multiple of `multiple`. */
export const sliceOf = (depth: number, most: number, multiple: number): number =>
  roundUp(Math.ceil(depth / Math.ceil(depth / most)), multiple)

/** The columns of a chunk of a sum, for the fewest equal chunks of at most `most`: a multiple of `multiple`. */
export const chunkOf = (width: number, most: number, multiple: number): number =>
  roundUp(Math.ceil(width / Math.ceil(width / most)), multiple)

/** The columns of all chunks of a sum together. */
export const coveredBy = ({ chunk, values }: Sum): number => roundUp(values.width, chunk)
