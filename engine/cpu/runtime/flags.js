// V8's flags for kernels. Plain JavaScript, so that it can run before anything compiles WebAssembly, such as Node's own
// type stripping: changing flags later can end the process.
import { setFlagsFromString } from 'node:v8'

const [major, minor] = process.versions.v8.split('.').map(Number)
/** Whether this is Node 24 or newer. Its V8 is the oldest that has all the flags below and was tested. */
const hasFlags = major > 13 || (major === 13 && minor >= 6)

const state = { prepared: false, revectorizes: false }

/**
 * Prepares V8 for kernels, and enables its revectorizer where there is one, which joins pairs of neighbouring 128-bit
 * operations into 256-bit AVX2 operations. HLB_SIMD=128 in the environment keeps it off.
 * Call this before the process compiles any WebAssembly.
 */
export function prepareV8() {
  if (state.prepared || !hasFlags) return
  // Code that can be deoptimized needs the baseline compiler's call counts. Without them, V8 ends the process.
  setFlagsFromString('--no-wasm-deopt')
  // V8 also ends the process if compileOptimized disables the baseline compiler while another thread recompiles a hot
  // function, such as one of wabt's. With this budget, no function becomes hot.
  setFlagsFromString('--wasm-tiering-budget=2000000000')
  state.prepared = true
  if (process.arch !== 'x64' || process.env.HLB_SIMD === '128') return
  // The revectorizer loses the upper half of a sum where an unrolled loop has several exits.
  setFlagsFromString('--no-wasm-loop-unrolling')
  setFlagsFromString('--experimental-wasm-revectorize')
  state.revectorizes = true
}

/** Whether V8 joins pairs of 128-bit operations into 256-bit operations. */
export const isRevectorizing = () => state.revectorizes

/**
 * Compiles a module with V8's optimizing compiler at once, if prepareV8 was called before. Only this compiler
 * revectorizes, and a running function is never replaced by a better version. Afterwards the flags are restored, since
 * other modules, such as wabt, start much faster with the usual tiers.
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
