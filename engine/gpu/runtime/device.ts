import type { Precision, Target } from '../kernels/kernel.ts'

/** A GPU that was asked for is not there, or has gone. The message says so, and after its last colon what to do. */
export class GpuError extends Error {
  override name = 'GpuError'
}

/** The GPU was there and has gone: its driver was reset, it was pulled out, or the machine slept. */
export class GpuLostError extends GpuError {
  override name = 'GpuLostError'
  /** As the driver gives it. */
  readonly reason: string

  constructor(reason: string) {
    super(`the GPU was lost (${reason}): start again`)
    this.reason = reason
  }
}

/** What GpuError says where there is none. */
export const noGpu = 'no GPU was found: install the driver of the GPU, or take the CPU (--device cpu)'

/** A device with what it offers to kernels. */
export interface OpenDevice {
  readonly device: GPUDevice
  readonly adapter: GPUAdapter
  readonly target: Target
  readonly precision: Precision
  /** Whether kernels' times can be asked for. */
  readonly hasTimestamps: boolean
}

/** Chrome's name for matrices that a subgroup multiplies; not in the standard yet. */
const subgroupMatrixFeature = 'chromium-experimental-subgroup-matrix'

/** How adapter.info describes a shape of them. */
interface SubgroupMatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/**
 * Opens the fastest adapter with all its limits. precision: f16 by default where the adapter has it; subgroupMatrix: false
 * leaves tensor cores alone. Throws GpuError when there is no adapter, or none with the precision that was asked for, or it does not start.
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
    // The standard's list does not have them all.
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

/** Drivers' messages go on with where in Dawn they came from. */
export const firstLine = (message: string): string => message.trim().split('\n')[0]

/** The adapter's name as its driver gives it. */
export const nameOf = ({ info }: GPUAdapter): string =>
  info.description || [info.vendor, info.architecture].filter(Boolean).join(' ') || 'without a name'

/** The largest shape of f16 matrices with f32 sums. */
function halfMatrix(info: GPUAdapterInfo): Target['subgroupMatrix'] {
  const configs =
    'subgroupMatrixConfigs' in info ? (info.subgroupMatrixConfigs as Iterable<SubgroupMatrixConfig>) : []
  const [largest] = [...configs]
    .filter(config => config.componentType === 'f16' && config.resultComponentType === 'f32')
    .sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K)
  return largest && { m: largest.M, n: largest.N, k: largest.K }
}
