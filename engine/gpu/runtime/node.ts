// WebGPU in Node, from the npm package webgpu.
import { GpuError, noGpu } from './device.ts'

/** Kept here, since devices stop working once their instance is garbage. */
const instances = new Map<string, GPU>()

/**
 * Dawn, the WebGPU implementation of the package webgpu. flags: Dawn's own. Throws GpuError if the package is missing or
 * does not load, or if the machine has no Vulkan.
 */
export async function nodeGpu(flags: readonly string[] = []): Promise<GPU> {
  const known = instances.get(flags.join())
  if (known) return known
  const needsDriver = !flags.includes('backend=null')
  if (needsDriver && process.platform === 'linux' && !hasLibrary('libvulkan.so.1')) throw new GpuError(noGpu)
  try {
    const { create, globals } = await import('webgpu')
    // GPUBufferUsage and the like, which are global in a browser.
    Object.assign(globalThis, globals)
    const instance = create([
      // The first allows subgroup matrices. The others switch off what protects a browser from its pages and slows products
      // down: clamped indices and cleared workgroup memory. Kernels need neither: they keep each index in range and write
      // before they read, which "npm run test:gpu -- --strict" tests.
      'enable-dawn-features=allow_unsafe_apis,disable_robustness,disable_workgroup_init',
      // Many kernels take less than the 100 µs to which Dawn rounds times otherwise.
      'disable-dawn-features=timestamp_quantization',
      ...flags,
    ])
    instances.set(flags.join(), instance)
    return instance
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    throw new GpuError(`WebGPU does not load (${reason}): npm install brings the package webgpu`)
  }
}

/** Whether the system's loader finds a library. Without Vulkan, Dawn would print a warning of its own. */
function hasLibrary(name: string): boolean {
  try {
    process.dlopen({ exports: {} }, name)
    return true
  } catch (error) {
    // A library that is found is no addon of Node, which is a different error.
    return !/cannot open shared object|no such file/i.test(String(error))
  }
}
