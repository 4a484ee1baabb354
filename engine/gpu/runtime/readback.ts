// Copies results from the GPU's memory.
import type { DType } from '../../graph/operations.ts'
import { bytesOf } from '../kernels/kernel.ts'

/** Elements of a buffer. offset and size count elements. */
export interface Elements {
  readonly buffer: GPUBuffer
  readonly offset: number
  readonly size: number
  readonly dtype: DType
}

/** Reads copies of buffers once the GPU has made them, while its queue goes on. */
export class Readback {
  private readonly device: GPUDevice
  /** Staging buffers that are not in use. */
  private readonly free: GPUBuffer[] = []

  constructor(device: GPUDevice) {
    this.device = device
  }

  /** Adds copies to a list of commands. Once that is submitted, call the result to wait for the copies' data. */
  copy(
    encoder: GPUCommandEncoder,
    ranges: readonly Elements[],
  ): () => Promise<(Float32Array | Int32Array)[]> {
    const total = ranges.reduce((sum, { size }) => sum + size * bytesOf.f32, 0)
    if (total === 0) {
      return async () => {
        await this.device.queue.onSubmittedWorkDone()
        return ranges.map(({ dtype }) => arrayOf(dtype, new ArrayBuffer(0)))
      }
    }
    const staging = this.take(total)
    let start = 0
    const starts = ranges.map(({ buffer, offset, size }) => {
      if (size > 0)
        encoder.copyBufferToBuffer(buffer, offset * bytesOf.f32, staging, start, size * bytesOf.f32)
      start += size * bytesOf.f32
      return start - size * bytesOf.f32
    })
    return async () => {
      await staging.mapAsync(GPUMapMode.READ, 0, total)
      const mapped = staging.getMappedRange(0, total)
      const arrays = ranges.map(({ size, dtype }, i) =>
        arrayOf(dtype, mapped.slice(starts[i], starts[i] + size * bytesOf.f32)),
      )
      staging.unmap()
      this.free.push(staging)
      return arrays
    }
  }

  private take(bytes: number): GPUBuffer {
    const index = this.free.findIndex(({ size }) => size >= bytes)
    if (index >= 0) return this.free.splice(index, 1)[0]
    return this.device.createBuffer({
      size: bytes,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    })
  }
}

const arrayOf = (dtype: DType, bytes: ArrayBuffer): Float32Array | Int32Array =>
  dtype === 'float32' ? new Float32Array(bytes) : new Int32Array(bytes)
