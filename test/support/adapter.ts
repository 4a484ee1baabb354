/** What WebGPU finds on this machine. It is asked in a process of its own, which prints JSON: a driver may take that down. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { GpuError, nameOf, openDevice } from '../../engine/gpu/runtime/device.ts'
import { nodeGpu } from '../../engine/gpu/runtime/node.ts'

/** The three ways in which the GPU's backend computes: float32; f16 products without, and with subgroup matrices. */
export type GpuPrecision = 'f32' | 'f16' | 'matrix'

export interface FoundAdapter {
  readonly name: string
  /** Whether it is a GPU, rather than a driver that computes on the CPU. */
  readonly isReal: boolean
  readonly precisions: readonly GpuPrecision[]
}

/** How to start a Node that sees a driver. */
export interface Driver {
  /** In the place of process.execPath. */
  readonly node: string
  readonly environment: Readonly<Record<string, string>>
}

/** The driver of this machine. */
export const ownDriver: Driver = { node: process.execPath, environment: {} }

/** The adapter that WebGPU finds through a driver; nothing where there is none. */
export async function adapterOf({ node, environment }: Driver): Promise<FoundAdapter | undefined> {
  try {
    const { stdout } = await promisify(execFile)(node, [...process.execArgv, import.meta.filename], {
      env: { ...process.env, ...environment },
    })
    const adapter: FoundAdapter | null = JSON.parse(stdout)
    return adapter ?? undefined
  } catch {
    return undefined
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(await findAdapter()))
  // Dawn may keep a process alive.
  process.exit()
}

async function findAdapter(): Promise<FoundAdapter | null> {
  try {
    const { device, adapter, target } = await openDevice(await nodeGpu())
    device.destroy()
    const precisions: GpuPrecision[] = ['f32']
    if (target.f16) precisions.push('f16')
    if (target.subgroupMatrix) precisions.push('matrix')
    return { name: nameOf(adapter), isReal: !adapter.info.isFallbackAdapter, precisions }
  } catch (error) {
    if (error instanceof GpuError) return null
    throw error
  }
}
