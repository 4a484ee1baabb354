import { after } from 'node:test'
import { type Backend, cpuBackend, gpuBackend, useBackend } from '../../engine/index.ts'
import type { GpuPrecision } from './adapter.ts'
import { testGpu } from './strict-gpu.ts'

/** What HLB_DEVICE=gpu and HLB_PRECISION=f32, f16 or matrix in the environment choose; undefined on the CPU. */
export const gpuPrecision =
  process.env.HLB_DEVICE === 'gpu' ? precisionNamed(process.env.HLB_PRECISION) : undefined

/** Starts the backend that the engine's tests run on. A test of another one starts that itself. */
export async function startBackend(): Promise<Backend> {
  const backend = await makeBackend()
  useBackend(backend)
  after(() => backend.close())
  return backend
}

/** Another backend on the same device. threads: on the CPU, all of which have their part in every program. */
export async function makeBackend({ threads = 2 } = {}): Promise<Backend> {
  if (gpuPrecision === undefined) return cpuBackend({ threads, alone: 0 })
  const precision = gpuPrecision === 'f32' ? 'f32' : 'f16'
  return gpuBackend({ gpu: await testGpu(), precision, subgroupMatrix: gpuPrecision === 'matrix' })
}

function precisionNamed(name = 'f32'): GpuPrecision {
  const found = (['f32', 'f16', 'matrix'] as const).find(precision => precision === name)
  if (!found) throw new Error(`HLB_PRECISION is ${name}: it takes f32, f16 or matrix`)
  return found
}
