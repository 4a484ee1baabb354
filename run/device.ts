import { availableParallelism } from 'node:os'
import { type Backend, GpuError, type Precision, cpuBackend, gpuBackend } from '../engine/index.ts'
import { nodeGpu } from '../engine/gpu/runtime/node.ts'
import { UserError } from '../common/errors.ts'
import { sentence } from './process/handle-errors.ts'
import type { Flag } from './options/options.ts'
import { type Progress, createProgress } from '../common/progress.ts'

/** The options of every script that computes: what on. */
export const deviceFlags = {
  device: { type: 'string', choices: ['cpu', 'gpu'], help: 'what computes (a GPU where there is one)' },
  precision: { type: 'string', choices: ['f32', 'f16'], help: 'of what a GPU multiplies (f16 if it can)' },
  threads: { type: 'integer', minimum: 1, help: 'threads of the CPU (one a core)' },
} as const satisfies Record<string, Flag>

/** What deviceFlags gives, beside a script's own options. */
export type DeviceOptions = {
  readonly device?: string | undefined
  readonly precision?: string | undefined
  readonly threads?: number | undefined
}

/**
 * Starts the backend that the options ask for. Without --device, one that says how many threads is for the CPU and one
 * that says f16 for a GPU; else it is a real GPU where there is one, and the CPU otherwise, which then says why.
 * Throws UserError when there is none as asked for, and for far more threads than cores: each takes memory.
 */
export async function chooseBackend(options: DeviceOptions): Promise<Backend> {
  const { threads } = options
  const precision: Precision | undefined =
    options.precision === 'f16' || options.precision === 'f32' ? options.precision : undefined
  const device = deviceAsked(options)
  if (device === 'cpu' && precision === 'f16')
    throw new UserError('The CPU computes in float32: --precision f16 is for a GPU (--device gpu).')
  const most = Math.max(16, 2 * availableParallelism())
  if (threads !== undefined && threads > most) {
    throw new UserError(
      `--threads ${threads} is more than is of use here: there are ${availableParallelism()} cores, and at most ${most} threads are started.`,
    )
  }
  const onCpu = { ...(threads !== undefined && { threads }) }
  if (device === 'cpu') return cpuBackend(onCpu)
  try {
    const gpu = await gpuBackend({ ...(precision && { precision }), progress: showCompiling() })
    if (device === 'gpu' || gpu.isReal) {
      await gpu.measurePeak()
      return gpu
    }
    await gpu.close()
    return await cpuBackend({ reason: `the only GPU is ${gpu.name}, which is the CPU too` })
  } catch (error) {
    if (!(error instanceof GpuError)) throw error
    const { message } = error
    if (device === 'gpu') throw new UserError(sentence(error))
    return cpuBackend({ reason: message.slice(0, message.lastIndexOf(':')) })
  }
}

/** Whether chooseBackend would take a real GPU, and not a driver that computes on the CPU. gpu: by default Dawn in Node. */
export async function findsGpu(options: DeviceOptions, gpu?: GPU): Promise<boolean> {
  if (deviceAsked(options) === 'cpu') return false
  try {
    const adapter = await (gpu ?? (await nodeGpu())).requestAdapter({ powerPreference: 'high-performance' })
    return adapter !== null && !adapter.info.isFallbackAdapter
  } catch (error) {
    if (error instanceof GpuError) return false
    throw error
  }
}

/** Who names threads means the CPU, who names f16 a GPU. */
const deviceAsked = ({ device, threads, precision }: DeviceOptions): string | undefined =>
  device ?? (threads !== undefined ? 'cpu' : precision === 'f16' ? 'gpu' : undefined)

/** A line on a terminal while kernels are compiled, if that takes longer than a second. */
function showCompiling(): (done: number, all: number) => void {
  let batch: { readonly start: number; readonly line: Progress } | undefined
  return (done, all) => {
    batch ??= { start: performance.now(), line: createProgress() }
    const { start, line } = batch
    if (performance.now() - start > 1000) line.update(done / all, `compiling kernels: ${done} of ${all}`)
    if (done < all) return
    line.clear()
    batch = undefined
  }
}
