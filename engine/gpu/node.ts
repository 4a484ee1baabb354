import { GpuError } from './device.ts'

/** Kept: its devices do not keep it alive, and die with it. */
const instances = new Map<string, GPU>()

/**
 * WebGPU in Node: Dawn, from the npm package webgpu, with flags of its own. Throws GpuError where the package is
 * missing or does not load.
 */
export async function nodeGpu(flags: readonly string[] = []): Promise<GPU> {
  try {
    const { create, globals } = await import('webgpu')
    // GPUBufferUsage and its like, which a page has.
    Object.assign(globalThis, globals)
    const known = instances.get(flags.join())
    if (known) return known
    // Subgroup matrices are behind this.
    const instance = create(['enable-dawn-features=allow_unsafe_apis', ...flags])
    instances.set(flags.join(), instance)
    return instance
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    throw new GpuError(`WebGPU is not to be had here (${reason}): npm install brings the package webgpu`)
  }
}
