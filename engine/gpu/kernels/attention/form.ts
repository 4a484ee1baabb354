import type { Operand } from './operand.ts'
import type { Target } from '../kernel.ts'

/** A matrix that a workgroup sums up in registers: weights · values for its rows and some of the columns. */
export interface Sum {
  readonly name: string
  /** What is multiplied: the vectors of weights are named so, followed by their number. */
  readonly weights: string
  readonly values: Operand
  readonly out: Operand
  /** What the sum is multiplied by when it is done. */
  readonly factor: number
  /** Columns that a workgroup sums. */
  readonly chunk: number
}

/**
 * How a workgroup makes products of tiles, and who has which elements of a tile of scores [rows, columns]:
 * vectors of four elements of a row. Code that it gives is for uniform control flow, and takes care of its
 * own barriers.
 */
export interface Form {
  readonly name: string
  readonly rows: number
  readonly columns: number
  /** Invocations of a workgroup. */
  readonly size: number
  /** Columns that its registers hold of all sums together. */
  readonly most: number
  /** Columns that a workgroup makes of each sum: of all in equal parts, as many as its registers hold. */
  readonly chunks: readonly number[]
  /** What it multiplies: f32, or f16 in subgroup matrices. */
  readonly loads: 'f32' | 'f16'
  /** The rows of the tile that an invocation has elements of, as expressions. */
  readonly ownRows: readonly string[]
  /** Its vectors: a number of ownRows, and the column of the first element. */
  readonly vectors: readonly { readonly row: number; readonly column: string }[]
  /** From one element of a vector to the next. */
  readonly columnStep: number
  /** How many invocations share a row, and which of them this one is. */
  readonly sharers: { readonly count: number; readonly index: string }
  /** Module-scope declarations. */
  readonly declarations: string
  /** Statements at the start of the main function. */
  readonly prologue: string
  /**
   * Declares vectors named name0, name1, ... with rows `rowStart`... of left times rows `columnStart`... of
   * right transposed, summed over all their columns.
   */
  product(name: string, left: Operand, right: Operand): string
  /** Declares what a sum is kept in. */
  begin(sum: Sum): string
  /** Adds weights · values to a sum, where values are the rows `columnStart`... of a chunk number `chunk`. */
  accumulate(sum: Sum): string
  /** Stores the sum. */
  finish(sum: Sum): string
  /**
   * Statement that puts two floats in workgroup memory, which products overwrite; index < rows *
   * sharers.count.
   */
  put(index: string, first: string, second: string): string
  /** Expression of what was put there: vec2f. */
  get(index: string): string
}

export interface FormOptions {
  readonly rows: number
  readonly columns: number
  /** Columns of the sums that it is for. */
  readonly widths: readonly number[]
  /** Of workgroup memory, at most. */
  readonly bytes: number
  readonly target: Target
}

/** Bytes of workgroup memory that are enough; with more, fewer workgroups run side by side. */
export const ampleBytes = 49152

export const roundUp = (x: number, multiple: number): number => Math.ceil(x / multiple) * multiple

/** A number as WGSL's f32. */
export const float = (value: number): string => `f32(${value})`

/** How deep the slices are in which a product is made: at most `most`, and a multiple of `multiple`. */
export const sliceOf = (depth: number, most: number, multiple: number): number =>
  roundUp(Math.ceil(depth / Math.ceil(depth / most)), multiple)

/** A sum's columns in as few equal parts as there can be: of at most `most`, and a multiple of `multiple`. */
export const chunkOf = (width: number, most: number, multiple: number): number =>
  roundUp(Math.ceil(width / Math.ceil(width / most)), multiple)

/** Columns that the chunks of a sum have together. */
export const coveredBy = ({ chunk, values }: Sum): number => roundUp(values.width, chunk)
