import { after } from 'node:test'
import { GpuError, type OpenDevice, openDevice } from '../../engine/gpu/runtime/device.ts'
import type { Dispatch, ElementType, Target } from '../../engine/gpu/kernels/kernel.ts'
import { dimensionsOf } from '../../engine/gpu/kernels/shader.ts'
import { storedBytes } from '../../engine/gpu/kernels/kernel.ts'
import { Pipelines } from '../../engine/gpu/runtime/pipelines.ts'
import type { Buffer } from '../../engine/compiler/program.ts'
import { testGpu } from './strict-gpu.ts'

/** A GPU that runs kernels by themselves; undefined where there is none. It is closed after the tests. */
export async function openMachine(): Promise<Machine | undefined> {
  try {
    const machine = new Machine(await openDevice(await testGpu()))
    after(() => machine.close())
    return machine
  } catch (error) {
    if (error instanceof GpuError) return undefined
    throw error
  }
}

/** A GPU with memory for each buffer that is named, all its own. */
export class Machine {
  /** How buffers are stored that are stored otherwise than their dtype says. */
  readonly types = new Map<Buffer, ElementType>()
  readonly target: Target
  private readonly device: GPUDevice
  private readonly pipelines: Pipelines
  private readonly memory = new Map<Buffer, GPUBuffer>()

  constructor({ device, target }: OpenDevice) {
    this.device = device
    this.target = target
    this.pipelines = new Pipelines(device)
  }

  readonly typeOf = (buffer: Buffer): ElementType =>
    this.types.get(buffer.allocation) ?? (buffer.allocation.dtype === 'float32' ? 'f32' : 'i32')

  /** Fills a buffer; returns the numbers as they are stored. */
  write(buffer: Buffer, numbers: ArrayLike<number>): Float64Array {
    const bytes = new ArrayBuffer(storedBytes(buffer.allocation, this.typeOf))
    const stored = this.view(buffer, bytes)
    stored.set(numbers)
    this.device.queue.writeBuffer(this.place(buffer), 0, bytes)
    return Float64Array.from(stored.subarray(0, numbers.length))
  }

  async run(dispatches: readonly Dispatch[]): Promise<void> {
    const ready = await Promise.all(dispatches.map(({ kernel }) => this.pipelines.get(kernel)))
    this.device.pushErrorScope('validation')
    const encoder = this.device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    dispatches.forEach(({ buffers, workgroups }, i) => {
      const { pipeline, layout } = ready[i]
      const entries = buffers.map((buffer, binding) => ({
        binding,
        resource: { buffer: this.place(buffer) },
      }))
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, this.device.createBindGroup({ layout, entries }))
      pass.dispatchWorkgroups(...dimensionsOf(workgroups))
    })
    pass.end()
    this.device.queue.submit([encoder.finish()])
    const error = await this.device.popErrorScope()
    if (error) throw new Error(error.message)
  }

  async read(buffer: Buffer): Promise<Float64Array> {
    const size = storedBytes(buffer.allocation, this.typeOf)
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST
    const staging = this.device.createBuffer({ size, usage })
    const encoder = this.device.createCommandEncoder()
    encoder.copyBufferToBuffer(this.place(buffer), 0, staging, 0, size)
    this.device.queue.submit([encoder.finish()])
    await staging.mapAsync(GPUMapMode.READ)
    const numbers = Float64Array.from(this.view(buffer, staging.getMappedRange()).subarray(0, buffer.size))
    staging.destroy()
    return numbers
  }

  /** Gives all memory back. */
  clear(): void {
    for (const buffer of this.memory.values()) buffer.destroy()
    this.memory.clear()
    this.types.clear()
  }

  close(): void {
    this.clear()
    this.device.destroy()
  }

  private place({ allocation }: Buffer): GPUBuffer {
    const known = this.memory.get(allocation)
    if (known) return known
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    const made = this.device.createBuffer({ size: storedBytes(allocation, this.typeOf), usage })
    this.memory.set(allocation, made)
    return made
  }

  private view(buffer: Buffer, bytes: ArrayBuffer): Float16Array | Float32Array | Int32Array {
    const type = this.typeOf(buffer)
    return type === 'f16'
      ? new Float16Array(bytes)
      : type === 'f32'
        ? new Float32Array(bytes)
        : new Int32Array(bytes)
  }
}
