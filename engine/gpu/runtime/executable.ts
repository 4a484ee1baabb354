// A planned program on a GPU: its kernels bound to memory, and its runs.
import type { Executable, Queued, Step, StepTime } from '../../runtime/backend.ts'
import type { Buffer, Instruction, View } from '../../compiler/program.ts'
import { sizeOf } from '../../graph/shape.ts'
import { type Dispatch, type ProgramDispatch, bytesOf, storedBytes } from '../kernels/kernel.ts'
import { dimensionsOf } from '../kernels/shader.ts'
import type { DeviceProgram } from '../passes/device-program.ts'
import { type Command, issue, timesOf } from './commands.ts'
import { GpuError } from './device.ts'
import type { GpuMemory } from './memory.ts'
import type { Pipeline } from './pipelines.ts'
import type { Readback } from './readback.ts'
import type { GpuStorage, MemoryRange, VariablePacks } from './variables.ts'
import type { DeviceWatch } from './watch.ts'

/** A dispatch with its pipeline. */
export interface PreparedDispatch extends Pipeline {
  readonly dispatch: Dispatch
}

/** A variable's half copy, and the kernels that copy its value. */
export interface HalfCopy {
  readonly storage: GpuStorage
  readonly refresh: readonly PreparedDispatch[]
}

/** The parts of a backend that its programs use. */
export interface Runtime {
  readonly device: GPUDevice
  readonly memory: GpuMemory
  readonly readback: Readback
  readonly watch: DeviceWatch
  readonly hasTimestamps: boolean
  /** Does something once all earlier actions are done. */
  next<T>(action: () => Promise<T>): Promise<T>
}

/** A program that has been planned, with what it needs of the GPU. */
export interface LoadedProgram {
  readonly planned: DeviceProgram
  readonly packs: VariablePacks
  readonly storageOf: (variable: Buffer) => GpuStorage
  readonly prepared: readonly PreparedDispatch[]
  /** By the buffers that stand for them in the program. */
  readonly halfCopies: ReadonlyMap<Buffer, HalfCopy>
}

type Data = Float32Array | Int32Array

export class GpuExecutable implements Executable {
  private readonly runtime: Runtime
  private readonly loaded: LoadedProgram
  /** Variables that the program assigns without writing their half copies. */
  private readonly outdated: readonly GpuStorage[]
  /** The generation of the memory that the commands are bound to. */
  private generation = -1
  private commands: readonly Command[] = []
  private refreshes: ReadonlyMap<GpuStorage, readonly Command[]> = new Map()

  constructor(runtime: Runtime, loaded: LoadedProgram) {
    this.runtime = runtime
    this.loaded = loaded
    const { planned, storageOf } = loaded
    const assigned = new Set(
      planned.program.instructions.flatMap(({ writes }) => writes.map(({ allocation }) => allocation)),
    )
    this.outdated = [...assigned]
      .filter(allocation => allocation.variable && !planned.kept.has(allocation))
      .map(storageOf)
  }

  get temporaryBytes(): number {
    return this.loaded.planned.temporaryBytes
  }

  get dispatches(): number {
    return this.loaded.planned.dispatches.length
  }

  get bytesMoved(): number {
    return this.loaded.planned.bytesMoved
  }

  run(inputs: readonly Data[]): Promise<Queued> {
    return this.runtime.next(() => this.queue(inputs))
  }

  profile(inputs: readonly Data[]): Promise<StepTime[]> {
    return this.runtime.next(() => this.measure(inputs))
  }

  steps(): Step[] {
    return stepsOf(this.loaded.planned.dispatches)
  }

  private async queue(inputs: readonly Data[]): Promise<Queued> {
    const { device, readback, watch } = this.runtime
    const refreshing = await this.begin(inputs)
    const encoder = device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    for (const command of [...refreshing, ...this.commands]) issue(pass, command)
    pass.end()
    const take = readback.copy(encoder, this.results())
    device.queue.submit([encoder.finish()])
    this.finish()
    return { results: watch.waiting(take()) }
  }

  private async measure(inputs: readonly Data[]): Promise<StepTime[]> {
    const { device, watch, hasTimestamps } = this.runtime
    if (!hasTimestamps)
      throw new GpuError('this GPU does not measure the times of kernels: run without --profile')
    const { results } = await this.queue(inputs)
    await results
    const refreshing = await this.begin(inputs)
    const milliseconds = await watch.waiting(timesOf(device, [...refreshing, ...this.commands]))
    this.finish()
    return this.loaded.planned.dispatches.map(({ kernel, workgroups, flops, bytes }, i) => ({
      kernels: [kernel.name],
      items: workgroups,
      milliseconds: milliseconds[refreshing.length + i],
      flops,
      bytes,
    }))
  }

  /**
   * Takes memory, binds the kernels to it and writes the inputs. Returns the commands that have to run before the
   * program's own: they bring half copies up to date.
   */
  private async begin(inputs: readonly Data[]): Promise<Command[]> {
    const { device, memory, watch } = this.runtime
    const { planned, packs, prepared, halfCopies } = this.loaded
    watch.check()
    await memory.pool.grow(planned.sizes)
    for (const [packed, pack] of packs.variables) await memory.pack(pack, packed.size)
    for (const [packed, pack] of packs.halfCopies) await memory.packHalves(pack, packed.size)
    for (const [copy, { storage }] of halfCopies)
      await memory.allocateHalf(storage, storedBytes(copy, planned.typeOf))
    if (this.generation !== memory.generation) {
      this.generation = memory.generation
      this.commands = this.bind(prepared)
      this.refreshes = new Map(
        [...halfCopies.values()].map(({ storage, refresh }) => [storage, this.bind(refresh)]),
      )
    }
    planned.program.inputs.forEach((buffer, i) => {
      const { buffer: bytes, byteOffset, byteLength } = inputs[i]
      const range = this.memoryOf(buffer)
      device.queue.writeBuffer(range.buffer, range.offset, bytes, byteOffset, byteLength)
    })
    return [...this.refreshes].flatMap(([storage, commands]) => (storage.isHalfCurrent ? [] : commands))
  }

  /** Notes which half copies are up to date once the queued run is done. */
  private finish(): void {
    for (const { storage } of this.loaded.halfCopies.values()) storage.isHalfCurrent = true
    for (const storage of this.outdated) storage.isHalfCurrent = false
  }

  private results() {
    return this.loaded.planned.program.outputs.map(({ buffer, offset, shape }: View) => {
      const range = this.memoryOf(buffer)
      return {
        buffer: range.buffer,
        offset: offset + range.offset / bytesOf.f32,
        size: sizeOf(shape),
        dtype: buffer.dtype,
      }
    })
  }

  private bind(dispatches: readonly PreparedDispatch[]): Command[] {
    return dispatches.map(({ dispatch, pipeline, layout }) => ({
      pipeline,
      dimensions: dimensionsOf(dispatch.workgroups),
      group: this.runtime.device.createBindGroup({
        layout,
        entries: dispatch.buffers.map((buffer, binding) => ({
          binding,
          resource: {
            ...this.memoryOf(buffer),
            size: storedBytes(buffer.allocation, this.loaded.planned.typeOf),
          },
        })),
      }),
    }))
  }

  private memoryOf({ allocation }: Buffer): MemoryRange {
    const { planned, packs, storageOf, halfCopies } = this.loaded
    const { places, slots, typeOf } = planned
    const range = allocation.variable
      ? storageOf(allocation).memory
      : (halfCopies.get(allocation)?.storage.half ??
        packs.variables.get(allocation)?.memory ??
        packs.halfCopies.get(allocation)?.halfMemory)
    if (range) return range
    const place = places.get(allocation)
    const buffer = this.runtime.memory.pool.piece(slots.get(place?.packed.buffer ?? allocation) ?? 0)
    return { buffer, offset: (place?.start ?? 0) * bytesOf[typeOf(allocation)] }
  }
}

/** The dispatches of a program as people look at them. */
function stepsOf(dispatches: readonly ProgramDispatch[]): Step[] {
  const parts = new Map<Instruction, number>()
  for (const { instructions } of dispatches)
    for (const instruction of instructions) parts.set(instruction, (parts.get(instruction) ?? 0) + 1)
  const seen = new Map<Instruction, number>()
  return dispatches.map(({ kernel, instructions, flops, bytes }) => {
    const [first] = instructions
    const [part, all] = [(seen.get(first) ?? 0) + 1, parts.get(first) ?? 1]
    for (const instruction of instructions) seen.set(instruction, (seen.get(instruction) ?? 0) + 1)
    const call = {
      name: kernel.name,
      instructions,
      flops,
      bytes,
      // Of the instruction, since the memory that is bound may hold more than it uses.
      reads: [...new Set(instructions.flatMap(({ reads }) => reads))],
      writes: [...new Set(instructions.flatMap(({ writes }) => writes))],
      ...(all > 1 && { role: `part ${part} of ${all}` }),
    }
    return { kernels: [call], barrier: undefined }
  })
}
