/** Assembles kernels from text to WebAssembly modules. */
import wabt from 'wabt'
import { compileOptimized } from './flags.js'
import type { Kernel } from '../kernels/kernel.ts'

const features = { simd: true, threads: true, relaxed_simd: true, bulk_memory: true }

let loading: ReturnType<typeof wabt> | undefined

/** Assembles a module from text, and compiles it with the optimizing compiler. */
export async function assemble(wat: string): Promise<WebAssembly.Module> {
  loading ??= wabt()
  const { parseWat } = await loading
  const parsed = parseWat('kernels.wat', wat, features)
  try {
    const { buffer } = parsed.toBinary({})
    return compileOptimized(new Uint8Array(buffer))
  } finally {
    parsed.destroy()
  }
}

/** The text of a module with these kernels, each exported under its name. It imports the memory as env.memory. */
export const kernelModule = (kernels: readonly Kernel[]): string => `(module
  (import "env" "memory" (memory 1 65536 shared))
  ${kernels.map(({ name, wat }) => `${wat}\n(export "${name}" (func $${name}))`).join('\n')})`
