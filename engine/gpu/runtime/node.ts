import { GpuError, noGpu } from './device.ts'

/** Kept: its devices do not keep it alive, and die with it. */
const instances = new Map<string, GPU>()

/**
 * WebGPU in Node: Dawn, from the npm package webgpu, with flags of its own. Throws GpuError where the package is
 * missing or does not load, or where there can be no GPU.
 */
export async function nodeGpu(flags: readonly string[] = []): Promise<GPU> {
  const known = instances.get(flags.join())
  if (known) return known
  const needsDriver = !flags.includes('backend=null')
  if (needsDriver && process.platform === 'linux' && !hasLibrary('libvulkan.so.1')) throw new GpuError(noGpu)
  try {
    const { create, globals } = await import('webgpu')
    // GPUBufferUsage and its like, which a page has.
    Object.assign(globalThis, globals)
    const instance = create([
      // Subgroup matrices are behind the first. The others leave out what a page is to be kept safe with, and what slows
      // products down: indices moved into range, and shared memory cleared. Kernels need neither: their own guards keep
      // each index in range, and they write before they read, as "npm run test:gpu -- --strict" tests.
      'enable-dawn-features=allow_unsafe_apis,disable_robustness,disable_workgroup_init',
      // Kernels take less than the 100 µs that times would be rounded to.
      'disable-dawn-features=timestamp_quantization',
      ...flags,
    ])
    instances.set(flags.join(), instance)
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
