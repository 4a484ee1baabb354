/**
 * V8's revectorizer turns pairs of neighbouring 128-bit operations into 256-bit AVX2 ones. It is an
 * experimental flag of the whole process, so everything here asks first and falls back to 128 bits.
 */

/** Whether this is Node 24 or newer, the oldest whose V8 has all the flags below (and was tried). */
function hasFlags(): boolean {
  const [major = 0, minor = 0] = (globalThis.process?.versions?.v8 ?? '').split('.').map(Number)
  return major > 13 || (major === 13 && minor >= 6)
}

function setFlags(...flags: string[]): void {
  const v8 = process.getBuiltinModule('node:v8')
  for (const flag of flags) v8.setFlagsFromString(flag)
}

/** Whether enableRevectorizer has been here, so that compileOptimized may skip the baseline compiler. */
let prepared = false

/**
 * Prepares V8 for kernels: switches the revectorizer on where there is one, and says whether it is on. To be
 * called before the process compiles any WebAssembly. HLB_SIMD=128 in the environment keeps it off.
 */
export function enableRevectorizer(): boolean {
  if (!hasFlags()) return false
  // Code that can be deoptimized needs the baseline compiler's call counts: V8 ends the process without them.
  if (!prepared) setFlags('--no-wasm-deopt')
  prepared = true
  if (process.arch !== 'x64' || process.env.HLB_SIMD === '128') return false
  // It loses the upper half of a sum that leaves an unrolled loop by one of several exits.
  setFlags('--experimental-wasm-revectorize', '--no-wasm-loop-unrolling')
  return true
}

/**
 * Compiles a module with V8's optimizing compiler from the start: no other one revectorizes, and a function
 * that is running is never replaced by a better one. The flags are put back, since other modules (wabt is
 * one) start much faster in the usual tiers.
 */
export function compileOptimized(bytes: BufferSource): WebAssembly.Module {
  if (!prepared) return new WebAssembly.Module(bytes)
  setFlags('--no-liftoff', '--no-wasm-lazy-compilation')
  try {
    return new WebAssembly.Module(bytes)
  } finally {
    setFlags('--liftoff', '--wasm-lazy-compilation')
  }
}
