/**
 * One WebAssembly function over the memory that all threads share.
 *
 * Its type is `(param $arguments i32) (param $item i32) (param $scratch i32)`:
 * - `$arguments` points at consecutive i32 byte addresses, one for each operand, in the order the
 *   kernel's maker documents;
 * - `$item` says which of the kernel's independent work items to do, 0 to items - 1. Items may run
 *   on any thread in any order, so no item's result may depend on another's;
 * - `$scratch` points at `scratchBytes` of memory that belongs to the calling thread (64-byte aligned).
 *
 * The text may define further functions beside the main one. Every name in it starts with the
 * kernel's own name, so that many kernels fit in one module. The module gives each kernel the memory
 * (memory 0), and nothing else.
 */
export interface Kernel {
  /** WAT identifier without the $; equal names mean equal text, so it spells out every parameter. */
  readonly name: string
  /** WAT source of `(func $name ...)` and its helpers. */
  readonly wat: string
  /** How many work items there are. */
  readonly items: number
  /** How many bytes of scratch memory a thread needs. */
  readonly scratchBytes: number
}
