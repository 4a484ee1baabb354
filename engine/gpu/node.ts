import { GpuError, noGpu } from './device.ts'

/** Kept: its devices do not keep it alive, and die with it. */
let instance: GPU | undefined

/**
 * WebGPU in Node: Dawn, from the npm package webgpu. Throws GpuError where the package is missing or does not load, or
 * where there can be no GPU.
 */
export async function nodeGpu(): Promise<GPU> {
  if (process.platform === 'linux' && !hasLibrary('libvulkan.so.1')) throw new GpuError(noGpu)
  try {
    const { create, globals } = await import('webgpu')
    // GPUBufferUsage and its like, which a page has.
    Object.assign(globalThis, globals)
    instance ??= create([
      // Subgroup matrices are behind this.
      'enable-dawn-features=allow_unsafe_apis',
      // Kernels take less than the 100 µs that times would be rounded to.
      'disable-dawn-features=timestamp_quantization',
    ])
    return instance
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    throw new GpuError(`WebGPU is not to be had here (${reason}): npm install brings the package webgpu`)
  }
}

/** Whether the system's loader finds a library. Dawn would print a warning of its own where there is no Vulkan. */
function hasLibrary(name: string): boolean {
  try {
    process.dlopen({ exports: {} }, name)
    return true
  } catch (error) {
    // One that is found is no addon of Node, which is an error too.
    return !/cannot open shared object|no such file/i.test(String(error))
  }
}
