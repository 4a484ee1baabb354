// The GPU's memory: variables, which keep theirs, and a pool that all programs share for their temporaries.
import { bytesOf } from '../kernels/kernel.ts'
import { MemoryError } from '../../runtime/memory-error.ts'
import { Pool } from './pool.ts'
import { GpuStorage, type VariablePack } from './variables.ts'
import type { DeviceWatch } from './watch.ts'

export class GpuMemory {
  readonly pool: Pool
  private readonly device: GPUDevice
  private readonly watch: DeviceWatch
  /** Bytes of variables and of their half copies. */
  private bytes = 0
  /** How often variables have moved to other memory. */
  private moves = 0

  constructor(device: GPUDevice, watch: DeviceWatch) {
    this.device = device
    this.watch = watch
    this.pool = new Pool(bytes => this.reserve(bytes))
  }

  get variableBytes(): number {
    return this.bytes
  }

  /** Changes when variables or temporaries have moved, so that kernels have to be bound to their memory again. */
  get generation(): number {
    return this.pool.generation + this.moves
  }

  /** Throws MemoryError if the GPU never gives so much in one piece. */
  checkSize(bytes: number): void {
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits
    const most = Math.min(maxBufferSize, maxStorageBufferBindingSize)
    if (bytes > most) {
      throw new MemoryError(
        `one tensor takes ${megabytes(bytes)} and this GPU gives ${megabytes(most)} in one piece: take less at once (--memory), or a smaller network`,
      )
    }
  }

  /** Reserves memory for a variable of so many elements. */
  async allocate(size: number): Promise<GpuStorage> {
    const buffer = await this.reserve(Math.max(4, size * 4))
    this.bytes += buffer.size
    return new GpuStorage(size, buffer)
  }

  /** Reserves memory for a variable's half copy, unless it has some. */
  async allocateHalf(storage: GpuStorage, bytes: number): Promise<void> {
    if (storage.half) return
    const buffer = await this.reserve(bytes)
    storage.half = { buffer, offset: 0 }
    this.bytes += buffer.size
  }

  /** Moves variables next to each other, unless they are there already. size: elements of all with their padding. */
  async pack(pack: VariablePack, size: number): Promise<void> {
    if (pack.memory) return
    const buffer = await this.reserve(size * bytesOf.f32)
    const encoder = this.device.createCommandEncoder()
    for (const [{ memory, size }, { offset }] of pack.ranges(buffer, bytesOf.f32))
      encoder.copyBufferToBuffer(memory.buffer, memory.offset, buffer, offset, size * bytesOf.f32)
    this.device.queue.submit([encoder.finish()])
    this.replace(pack.moveTo(buffer), buffer)
  }

  /** Gives variables' half copies memory next to each other, unless they have it. The next run makes the copies. */
  async packHalves(pack: VariablePack, size: number): Promise<void> {
    if (pack.halfMemory) return
    const buffer = await this.reserve(size * bytesOf.f16)
    this.replace(pack.moveHalvesTo(buffer), buffer)
  }

  /** Frees the memory that variables had before they moved. */
  private replace(before: readonly GPUBuffer[], by: GPUBuffer): void {
    for (const buffer of before) {
      this.bytes -= buffer.size
      buffer.destroy()
    }
    this.bytes += by.size
    this.moves++
  }

  /** Throws MemoryError if the GPU does not have so much. */
  private async reserve(bytes: number): Promise<GPUBuffer> {
    this.checkSize(bytes)
    this.device.pushErrorScope('out-of-memory')
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    const buffer = this.device.createBuffer({ size: bytes, usage })
    const error = await this.watch.waiting(this.device.popErrorScope())
    if (error) {
      throw new MemoryError(
        `the GPU has no ${megabytes(bytes)} left: take less at once (--memory), or a smaller network`,
      )
    }
    return buffer
  }
}

const megabytes = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`
