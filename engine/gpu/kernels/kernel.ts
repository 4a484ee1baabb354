// What kernels are made for and of: element types, the target, and dispatches.
import type { Buffer, Instruction } from '../../compiler/program.ts'

/** The type of an element in the GPU's memory. */
export type ElementType = 'f32' | 'f16' | 'i32'

export const bytesOf: Readonly<Record<ElementType, number>> = { f32: 4, f16: 2, i32: 4 }

/** The element type of each buffer's memory. */
export type TypeOf = (buffer: Buffer) => ElementType

/** Bytes of a buffer's memory. WebGPU wants multiples of four. */
export const storedBytes = (buffer: Buffer, typeOf: TypeOf): number =>
  Math.max(4, Math.ceil((buffer.size * bytesOf[typeOf(buffer)]) / 4) * 4)

/** f32: float32 throughout; f16: matrix products read half precision. */
export type Precision = 'f32' | 'f16'

/** What kernels are written for: what the adapter offers, and what the user asked for. */
export interface Target {
  /** Whether shaders may use f16. */
  readonly f16: boolean
  /** The sizes that subgroups may have; undefined where there are none. */
  readonly subgroups: { readonly smallest: number; readonly largest: number } | undefined
  /**
   * The shape of the f16 matrices that a subgroup multiplies into float32 sums. Undefined where the adapter has none, or
   * products are to be float32.
   */
  readonly subgroupMatrix: { readonly m: number; readonly n: number; readonly k: number } | undefined
  /** The most invocations in a workgroup. */
  readonly workgroupSize: number
  /** The most bytes of memory that a workgroup can share. */
  readonly workgroupBytes: number
  /** The most buffers that a kernel can bind. */
  readonly bindings: number
}

/** A compute shader, specialised to its shapes. */
export interface Kernel {
  /** Describes what it computes. Kernels of equal names have equal code. */
  readonly name: string
  readonly code: string
}

/** A kernel with its buffers. It runs after the earlier ones that wrote what it reads. */
export interface Dispatch {
  readonly kernel: Kernel
  /** In the order of the bindings. */
  readonly buffers: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly workgroups: number
  /** Floating-point operations of its products. */
  readonly flops: number
  /** Bytes that it reads and writes; an element that it touches counts once. */
  readonly bytes: number
}

/** A dispatch of a program, and the instructions that it executes or is a part of. */
export interface ProgramDispatch extends Dispatch {
  readonly instructions: readonly Instruction[]
}
