// V8's flags for kernels. Plain JavaScript, so that it can run ahead of everything that makes V8 compile
// WebAssembly (Node's own type stripping is one): flags that change under way can end the process.
import { setFlagsFromString } from 'node:v8'

const [major, minor] = process.versions.v8.split('.').map(Number)
/** Whether this is Node 24 or newer, the oldest whose V8 has all the flags below (and was tried). */
const hasFlags = major > 13 || (major === 13 && minor >= 6)

const state = { prepared: false, revectorizes: false }

/**
 * Prepares V8 for kernels, and switches its revectorizer on where there is one: it turns pairs of
 * neighbouring 128-bit operations into 256-bit AVX2 ones. HLB_SIMD=128 in the environment keeps it off.
 * To be called before the process compiles any WebAssembly.
 */
export function prepareV8() {
  if (state.prepared || !hasFlags) return
  // Code that can be deoptimized needs the baseline compiler's call counts: V8 ends the process without them.
  setFlagsFromString('--no-wasm-deopt')
  // Nor does it bear that compileOptimized switches the baseline compiler off while another thread compiles a
  // function anew that has run for long (one of wabt's): no function is to reach that age.
  setFlagsFromString('--wasm-tiering-budget=2000000000')
  state.prepared = true
  if (process.arch !== 'x64' || process.env.HLB_SIMD === '128') return
  // The revectorizer loses the upper half of a sum that leaves an unrolled loop by one of several exits.
  setFlagsFromString('--no-wasm-loop-unrolling')
  setFlagsFromString('--experimental-wasm-revectorize')
  state.revectorizes = true
}

/** Whether pairs of 128-bit operations become 256-bit ones. */
export const isRevectorizing = () => state.revectorizes

/**
 * Compiles a module with V8's optimizing compiler from the start, where prepareV8 was called in time: no
 * other one revectorizes, and a function that is running is never replaced by a better one. The flags are
 * put back, since other modules (wabt is one) start much faster in the usual tiers.
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
export function compileOptimized(bytes) {
  if (!state.prepared) return new WebAssembly.Module(bytes)
  setFlagsFromString('--no-liftoff')
  setFlagsFromString('--no-wasm-lazy-compilation')
  try {
    return new WebAssembly.Module(bytes)
  } finally {
    setFlagsFromString('--liftoff')
    setFlagsFromString('--wasm-lazy-compilation')
  }
}
