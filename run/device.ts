/** Chooses the backend that computes: the CPU or a GPU. */
import { availableParallelism } from 'node:os'
import { type Backend, GpuError, type Precision, cpuBackend, gpuBackend } from '../engine/index.ts'
import { nodeGpu } from '../engine/gpu/runtime/node.ts'
import { UserError } from '../common/errors.ts'
import { sentence } from './process/handle-errors.ts'
import type { Flag } from './options/options.ts'
import { type Progress, createProgress } from '../common/progress.ts'

/** The options that choose the backend, for every script that computes. */
export const deviceFlags = {
  device: { type: 'string', choices: ['cpu', 'gpu'], help: 'the device to use (a GPU if there is one)' },
  precision: {
    type: 'string',
    choices: ['f32', 'f16'],
    help: 'precision of matrix products on a GPU (f16 if supported)',
  },
  threads: { type: 'integer', minimum: 1, help: 'threads on the CPU (one per core)' },
} as const satisfies Record<string, Flag>

/** The values of deviceFlags. */
export type DeviceOptions = {
  readonly device?: string | undefined
  readonly precision?: string | undefined
  readonly threads?: number | undefined
}

/**
 * Starts the backend that the options ask for. Without --device, --threads implies the CPU and --precision f16 a GPU.
 * Otherwise it takes a real GPU if there is one, and else the CPU, whose description then says why. Throws a UserError if
 * the requested device is not available, and for many more threads than cores, since each takes memory.
 */
export async function chooseBackend(options: DeviceOptions): Promise<Backend> {
  const { threads } = options
  const precision: Precision | undefined =
    options.precision === 'f16' || options.precision === 'f32' ? options.precision : undefined
  const device = impliedDevice(options)
  if (device === 'cpu' && precision === 'f16')
    throw new UserError('The CPU computes in float32: --precision f16 is for a GPU (--device gpu).')
  const most = Math.max(16, 2 * availableParallelism())
  if (threads !== undefined && threads > most) {
    throw new UserError(
      `--threads ${threads} is too many: this machine has ${availableParallelism()} cores, and the limit is ${most} threads.`,
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

/** Whether chooseBackend would take a real GPU, not a driver that computes on the CPU. By default `gpu` is Dawn in Node. */
export async function findsGpu(options: DeviceOptions, gpu?: GPU): Promise<boolean> {
  if (impliedDevice(options) === 'cpu') return false
  try {
    const adapter = await (gpu ?? (await nodeGpu())).requestAdapter({ powerPreference: 'high-performance' })
    return adapter !== null && !adapter.info.isFallbackAdapter
  } catch (error) {
    if (error instanceof GpuError) return false
    throw error
  }
}

/** The device that the options imply: --threads the CPU, --precision f16 a GPU. */
const impliedDevice = ({ device, threads, precision }: DeviceOptions): string | undefined =>
  device ?? (threads !== undefined ? 'cpu' : precision === 'f16' ? 'gpu' : undefined)

/** Returns a function that shows a progress line if compiling kernels takes longer than a second. */
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
