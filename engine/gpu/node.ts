import { GpuError } from './device.ts'

/** Kept: its devices do not keep it alive, and die with it. */
let instance: GPU | undefined

/**
 * WebGPU in Node: Dawn, from the npm package webgpu. Throws GpuError where the package is missing or does not load.
 */
export async function nodeGpu(): Promise<GPU> {
  try {
    const { create, globals } = await import('webgpu')
    // GPUBufferUsage and its like, which a page has.
    Object.assign(globalThis, globals)
    // Subgroup matrices are behind this.
    instance ??= create(['enable-dawn-features=allow_unsafe_apis', 'disable-dawn-features=timestamp_quantization'])
    return instance
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    throw new GpuError(`WebGPU is not to be had here (${reason}): npm install brings the package webgpu`)
  }
}
