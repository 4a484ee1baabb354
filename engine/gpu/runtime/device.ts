// Opens a WebGPU device, and finds out what it offers to kernels.
import type { Precision, Target } from '../kernels/kernel.ts'

/** There is no usable GPU. The message says why, and after its last colon what to do. */
export class GpuError extends Error {
  override name = 'GpuError'
}

/** The GPU was lost: its driver was reset, it was unplugged, or the machine slept. */
export class GpuLostError extends GpuError {
  override name = 'GpuLostError'
  /** The driver's explanation. */
  readonly reason: string

  constructor(reason: string) {
    super(`the GPU was lost (${reason}): start again`)
    this.reason = reason
  }
}

/** GpuError's message where there is no GPU. */
export const noGpu = 'no GPU was found: install the driver of the GPU, or take the CPU (--device cpu)'

/** A device, and what it offers to kernels. */
export interface OpenDevice {
  readonly device: GPUDevice
  readonly adapter: GPUAdapter
  readonly target: Target
  readonly precision: Precision
  /** Whether it can measure the times of kernels. */
  readonly hasTimestamps: boolean
}

/** Chrome's name of the feature with which a subgroup multiplies matrices; WebGPU's standard does not have it yet. */
const subgroupMatrixFeature = 'chromium-experimental-subgroup-matrix'

/** adapter.info's description of a shape of subgroup matrices. */
interface SubgroupMatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/**
 * Opens the fastest adapter with all its limits. precision: f16 by default where the adapter has it; subgroupMatrix: false
 * does without tensor cores. Throws GpuError if there is no adapter, it lacks the precision, or it does not start.
 */
export async function openDevice(
  gpu: GPU,
  { precision, subgroupMatrix = true }: { precision?: Precision; subgroupMatrix?: boolean } = {},
): Promise<OpenDevice> {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) throw new GpuError(noGpu)
  const { info, limits, features } = adapter
  if (precision === 'f16' && !features.has('shader-f16'))
    throw new GpuError(`the GPU ${nameOf(adapter)} has no f16: take --precision f32`)
  const wanted = ['shader-f16', 'subgroups', 'timestamp-query', subgroupMatrixFeature]
  const offered = wanted.filter(feature => features.has(feature))
  const requested = adapter.requestDevice({
    // WebGPU's types know only the features of the standard.
    requiredFeatures: offered as GPUFeatureName[],
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
    },
  })
  const device = await requested.catch((error: unknown) => {
    const reason = firstLine(error instanceof Error ? error.message : String(error))
    throw new GpuError(
      `the GPU ${nameOf(adapter)} does not start (${reason}): look at its driver, or take the CPU (--device cpu)`,
    )
  })
  const f16 = offered.includes('shader-f16')
  const subgroups =
    offered.includes('subgroups') && info.subgroupMaxSize > 0
      ? { smallest: info.subgroupMinSize, largest: info.subgroupMaxSize }
      : undefined
  const chosen = precision ?? (f16 ? 'f16' : 'f32')
  const hasMatrices =
    subgroupMatrix && chosen === 'f16' && f16 && subgroups && offered.includes(subgroupMatrixFeature)
  return {
    device,
    adapter,
    precision: chosen,
    hasTimestamps: offered.includes('timestamp-query'),
    target: {
      f16,
      subgroups,
      subgroupMatrix: hasMatrices ? halfMatrix(info) : undefined,
      workgroupSize: Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX),
      workgroupBytes: limits.maxComputeWorkgroupStorageSize,
      bindings: limits.maxStorageBuffersPerShaderStage,
    },
  }
}

/** The first line of a driver's message; the others tell where in Dawn it comes from. */
export const firstLine = (message: string): string => message.trim().split('\n')[0]

/** An adapter's name, as its driver gives it. */
export const nameOf = ({ info }: GPUAdapter): string =>
  info.description || [info.vendor, info.architecture].filter(Boolean).join(' ') || 'without a name'

/** The largest shape of f16 matrices with float32 sums. */
function halfMatrix(info: GPUAdapterInfo): Target['subgroupMatrix'] {
  const configs =
    'subgroupMatrixConfigs' in info ? (info.subgroupMatrixConfigs as Iterable<SubgroupMatrixConfig>) : []
  const [largest] = [...configs]
    .filter(config => config.componentType === 'f16' && config.resultComponentType === 'f32')
    .sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K)
  return largest && { m: largest.M, n: largest.N, k: largest.K }
}
