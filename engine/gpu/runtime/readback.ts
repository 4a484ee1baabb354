import type { DType } from '../../graph/operations.ts'
import { bytesOf } from '../kernels/kernel.ts'

/** Some elements of a buffer. */
export interface Part {
  readonly buffer: GPUBuffer
  readonly offset: number
  readonly size: number
  readonly dtype: DType
}

/** Copies from the GPU's memory, which are taken when they are there; the queue does not wait. */
export class Readback {
  private readonly device: GPUDevice
  /** Buffers that no copy is under way in. */
  private readonly free: GPUBuffer[] = []

  constructor(device: GPUDevice) {
    this.device = device
  }

  /** Adds the copies to a list of commands. To take them, once it is submitted, call what this returns. */
  copy(encoder: GPUCommandEncoder, parts: readonly Part[]): () => Promise<(Float32Array | Int32Array)[]> {
    const total = parts.reduce((sum, { size }) => sum + size * bytesOf.f32, 0)
    if (total === 0) {
      return async () => {
        await this.device.queue.onSubmittedWorkDone()
        return parts.map(({ dtype }) => arrayOf(dtype, new ArrayBuffer(0)))
      }
    }
    const staging = this.take(total)
    let start = 0
    const starts = parts.map(({ buffer, offset, size }) => {
      if (size > 0)
        encoder.copyBufferToBuffer(buffer, offset * bytesOf.f32, staging, start, size * bytesOf.f32)
      start += size * bytesOf.f32
      return start - size * bytesOf.f32
    })
    return async () => {
      await staging.mapAsync(GPUMapMode.READ, 0, total)
      const mapped = staging.getMappedRange(0, total)
      const arrays = parts.map(({ size, dtype }, i) =>
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
