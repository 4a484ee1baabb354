/** What a kernel is, for the passes that choose kernels and the runtime that calls them. */
import type { Buffer } from '../../compiler/program.ts'

/**
 * One WebAssembly function over the memory that all threads share.
 *
 * Its type is `(param $arguments i32) (param $item i32) (param $scratch i32)`:
 * - `$arguments` points at consecutive i32 byte addresses, one per operand, in the order that the function making the
 *   kernel documents;
 * - `$item` selects one of the kernel's independent work items, 0 to items - 1. Items may run on any thread in any
 *   order, so no item's result may depend on another's;
 * - `$scratch` points at `scratchBytes` of memory that belongs to the calling thread (64-byte aligned).
 *
 * The text may define further functions beside the main one. Every name in it starts with the kernel's own name, so that
 * many kernels fit in one module. The module provides the memory (memory 0), and nothing else.
 */
export interface Kernel {
  /** WAT identifier without the $. Equal names mean equal text, so the name spells out every parameter. */
  readonly name: string
  /** WAT source of `(func $name ...)` and its helpers. */
  readonly wat: string
  /** Number of work items. */
  readonly items: number
  /** Bytes of scratch memory that each thread needs. */
  readonly scratchBytes: number
}

/** Memory that a kernel reads or writes: the buffer and its first element there. */
export interface KernelOperand {
  readonly buffer: Buffer
  readonly offset: number
}
