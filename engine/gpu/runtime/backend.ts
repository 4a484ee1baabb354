import type { Backend, Executable, Queued, Step, StepTime, Storage } from '../../runtime/backend.ts'
import type { DType } from '../../graph/operations.ts'
import { MemoryError } from '../../runtime/memory-error.ts'
import { withPauses, withoutPauses } from '../../compiler/pauses.ts'
import { Buffer, type Instruction, type Program, type View } from '../../compiler/program.ts'
import { sizeOf } from '../../graph/shape.ts'
import { type Command, issue, timesOf } from './commands.ts'
import {
  GpuError,
  GpuLostError,
  type OpenDevice,
  type Precision,
  firstLine,
  nameOf,
  openDevice,
} from './device.ts'
import { type Dispatch, type ProgramDispatch, type Target, bytesOf, dimensionsOf } from '../kernels/kernel.ts'
import { lower } from '../passes/lower.ts'
import { storedBytes } from './memory.ts'
import { nodeGpu } from './node.ts'
import { measurePeak } from './peak.ts'
import { type CompileProgress, type Pipeline, Pipelines } from './pipelines.ts'
import { type DeviceProgram, logitsAtOnce, planProgram } from '../passes/device-program.ts'
import { Pool } from './pool.ts'
import { Readback } from './readback.ts'
import { Families, type Family, GpuStorage, type Range } from './variables.ts'

export interface GpuOptions {
  /** Where adapters come from: by default Dawn in Node. */
  readonly gpu?: GPU
  /** f16 halves the bytes of what products read, and is for tensor cores; sums and parameters are f32 in both. */
  readonly precision?: Precision
  /** false leaves subgroup matrices (tensor cores) alone. */
  readonly subgroupMatrix?: boolean
  readonly progress?: CompileProgress
}

/** Starts the GPU backend on the fastest adapter. Throws GpuError when there is none, or none as asked for. */
export async function gpuBackend(options: GpuOptions = {}): Promise<GpuBackend> {
  const gpu = options.gpu ?? (await nodeGpu())
  return new GpuBackend(await openDevice(gpu, options), options.progress)
}

const storageUsage = () => GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST

export class GpuBackend implements Backend {
  /** What computes, in a few words. */
  readonly description: string
  readonly precision: Precision
  readonly scalesLoss: boolean
  readonly logitsAtOnce: number
  readonly target: Target
  /** Whether it is a GPU, rather than a driver that computes on the CPU. */
  readonly isReal: boolean
  /** The GPU's, as its driver gives it. */
  readonly name: string
  /** NaN until it has been measured. */
  peakGflops = NaN
  private readonly device: GPUDevice
  readonly capacity = { most: Infinity, usual: Infinity }
  private readonly hasTimestamps: boolean
  private readonly pipelines: Pipelines
  private readonly pool: Pool
  /** How often variables have moved to other memory. */
  private moves = 0
  /** Bytes of variables, and of what products read instead of them. */
  private variableBytes = 0
  private readonly readback: Readback
  private failure: Error | undefined
  /** Is done when the GPU is lost, or given back. */
  private readonly gone: Promise<void>
  /** Programs are planned one after the other. */
  private planning: Promise<unknown> = Promise.resolve()
  /** Commands are queued one after the other. */
  private queue: Promise<unknown> = Promise.resolve()

  constructor({ device, adapter, target, precision, hasTimestamps }: OpenDevice, progress?: CompileProgress) {
    this.device = device
    this.target = target
    this.precision = precision
    // Gradients of a mean over many tokens are below what f16 holds.
    this.scalesLoss = precision === 'f16'
    this.logitsAtOnce = logitsAtOnce(precision, device.limits.maxStorageBufferBindingSize)
    this.hasTimestamps = hasTimestamps
    this.pipelines = new Pipelines(device, progress)
    this.pool = new Pool(bytes => this.reserve(bytes))
    this.readback = new Readback(device)
    this.isReal = !adapter.info.isFallbackAdapter
    const matrix = target.subgroupMatrix
    const products = matrix
      ? `f16 products in subgroup matrices of ${matrix.m}x${matrix.n}x${matrix.k}`
      : `${precision} products`
    this.name = nameOf(adapter)
    this.description = `${this.isReal ? 'GPU' : 'GPU in software'}, ${this.name}, ${products}`
    this.gone = this.watch()
    device.onuncapturederror = ({ error }) => {
      this.failure ??= new Error(`the GPU refused a command: ${error.message}`)
    }
  }

  async allocate(size: number): Promise<Storage> {
    const buffer = await this.reserve(Math.max(4, size * 4))
    this.variableBytes += buffer.size
    return new GpuStorage(size, buffer)
  }

  /** What is taken of the GPU's memory: by variables for good, by temporaries for all programs in turn. */
  get allocated(): { readonly variableBytes: number; readonly temporaryBytes: number } {
    return { variableBytes: this.variableBytes, temporaryBytes: this.pool.bytes }
  }

  async read(storage: Storage, size: number, dtype: DType): Promise<Float32Array | Int32Array> {
    const take = await this.next(async () => {
      this.check()
      const { buffer, offset } = owned(storage).memory
      const encoder = this.device.createCommandEncoder()
      const copied = this.readback.copy(encoder, [{ buffer, offset: offset / bytesOf.f32, size, dtype }])
      this.device.queue.submit([encoder.finish()])
      return copied
    })
    const [data] = await this.waiting(take())
    return data
  }

  write(storage: Storage, data: Float32Array | Int32Array): Promise<void> {
    return this.next(async () => {
      this.check()
      const home = owned(storage)
      const { buffer, offset } = home.memory
      this.device.queue.writeBuffer(buffer, offset, data.buffer, data.byteOffset, data.byteLength)
      home.isHalfCurrent = false
    })
  }

  async load(given: Program, storages: readonly Storage[]): Promise<Executable> {
    this.check()
    const homes = new Map(given.variables.map(({ variable }, i) => [variable, owned(storages[i])]))
    const homeOf = (root: Buffer): GpuStorage => {
      const home = homes.get(root.variable)
      if (!home) throw new Error('a program uses a variable that it does not name')
      return home
    }
    const { families, planned } = await this.plan(given, homeOf)
    const { program, typeOf, halfCopies, kept, dispatches, slots, sizes, places } = planned
    this.checkSize(sizes.reduce((most, bytes) => Math.max(most, bytes), 0))
    const copies = new Map<Buffer, { home: GpuStorage; refresh: Prepared[] }>()
    for (const [root, half] of halfCopies) {
      const refresh = await this.prepare(
        withoutPauses(lower(copyProgram(root, half), typeOf, this.target)).dispatches,
      )
      copies.set(half, { home: homeOf(root), refresh })
    }
    const prepared = await this.prepare(dispatches)
    const memoryOf = ({ allocation }: Buffer): Range => {
      const range = allocation.variable
        ? homeOf(allocation).memory
        : (copies.get(allocation)?.home.half ??
          families.variables.get(allocation)?.memory ??
          families.halves.get(allocation)?.halfMemory)
      if (range) return range
      const place = places.get(allocation)
      const buffer = this.pool.piece(slots.get(place?.packed.buffer ?? allocation) ?? 0)
      return { buffer, offset: (place?.start ?? 0) * bytesOf[typeOf(allocation)] }
    }
    const bind = (list: readonly Prepared[]): Command[] =>
      list.map(({ dispatch, pipeline, layout }) => ({
        pipeline,
        dimensions: dimensionsOf(dispatch.workgroups),
        group: this.device.createBindGroup({
          layout,
          entries: dispatch.buffers.map((buffer, binding) => ({
            binding,
            resource: { ...memoryOf(buffer), size: storedBytes(buffer.allocation, typeOf) },
          })),
        }),
      }))

    let generation = -1
    let bound: Command[] = []
    let refreshes = new Map<GpuStorage, Command[]>()
    /** Puts the inputs in place, and gives the commands that go before the program's own. Memory is taken here, not to plan. */
    const begin = async (inputs: readonly (Float32Array | Int32Array)[]): Promise<Command[]> => {
      this.check()
      await this.pool.grow(sizes)
      for (const [arena, family] of families.variables) await this.bringTogether(family, arena.size)
      for (const [arena, family] of families.halves) await this.bringHalvesTogether(family, arena.size)
      for (const [half, { home }] of copies) {
        if (home.half) continue
        const buffer = await this.reserve(storedBytes(half, typeOf))
        home.half = { buffer, offset: 0 }
        this.variableBytes += buffer.size
      }
      if (generation !== this.pool.generation + this.moves) {
        generation = this.pool.generation + this.moves
        bound = bind(prepared)
        refreshes = new Map([...copies.values()].map(({ home, refresh }) => [home, bind(refresh)]))
      }
      program.inputs.forEach((buffer, i) => {
        const { buffer: bytes, byteOffset, byteLength } = inputs[i]
        const range = memoryOf(buffer)
        this.device.queue.writeBuffer(range.buffer, range.offset, bytes, byteOffset, byteLength)
      })
      return [...refreshes].flatMap(([home, commands]) => (home.isHalfCurrent ? [] : commands))
    }
    const assigned = new Set(
      program.instructions.flatMap(({ writes }) => writes.map(({ allocation }) => allocation)),
    )
    const outdated = [...assigned].filter(root => root.variable && !kept.has(root)).map(homeOf)
    /** Notes what the run that was queued has changed. */
    const finish = () => {
      for (const { home } of copies.values()) home.isHalfCurrent = true
      for (const home of outdated) home.isHalfCurrent = false
    }
    const results = () =>
      program.outputs.map(({ buffer, offset, shape }: View) => {
        const range = memoryOf(buffer)
        return {
          buffer: range.buffer,
          offset: offset + range.offset / bytesOf.f32,
          size: sizeOf(shape),
          dtype: buffer.dtype,
        }
      })

    const run = async (inputs: readonly (Float32Array | Int32Array)[]): Promise<Queued> => {
      const before = await begin(inputs)
      const encoder = this.device.createCommandEncoder()
      const pass = encoder.beginComputePass()
      for (const command of [...before, ...bound]) issue(pass, command)
      pass.end()
      const take = this.readback.copy(encoder, results())
      this.device.queue.submit([encoder.finish()])
      finish()
      return { results: this.waiting(take()) }
    }
    const profile = async (inputs: readonly (Float32Array | Int32Array)[]): Promise<StepTime[]> => {
      if (!this.hasTimestamps)
        throw new GpuError('this GPU does not tell the times of kernels: --profile cannot be had')
      await (
        await run(inputs)
      ).results
      const before = await begin(inputs)
      const milliseconds = await this.waiting(timesOf(this.device, [...before, ...bound]))
      finish()
      return dispatches.map(({ kernel, workgroups, flops, bytes }, i) => ({
        kernels: [kernel.name],
        items: workgroups,
        milliseconds: milliseconds[before.length + i],
        flops,
        bytes,
      }))
    }
    return {
      temporaryBytes: planned.temporaryBytes,
      dispatches: dispatches.length,
      bytesMoved: planned.bytesMoved,
      run: inputs => this.next(() => run(inputs)),
      profile: inputs => this.next(() => profile(inputs)),
      steps: () => stepsOf(dispatches),
    }
  }

  /** Finds out how fast products are, in well under a second. */
  async measurePeak(): Promise<void> {
    this.peakGflops = await measurePeak(this, this.hasTimestamps)
  }

  async close(): Promise<void> {
    await this.queue
    await this.device.queue.onSubmittedWorkDone().catch(() => {})
    this.failure ??= new Error('this backend is closed: its variables and compiled functions are gone')
    this.device.destroy()
  }

  /** Plans a program once all before it are planned: what these move next to each other, it has to take as it is. */
  private plan(
    program: Program,
    homeOf: (root: Buffer) => GpuStorage,
  ): Promise<{ families: Families; planned: DeviceProgram }> {
    const done = this.planning.then(async () => {
      const families = new Families(program.variables, homeOf)
      const planned = await withPauses(planProgram(program, this.precision, this.target, families.places))
      families.add(planned.places, planned.halfCopies)
      return { families, planned }
    })
    this.planning = done.catch(() => {})
    return done
  }

  /** Does something once all before it is done. */
  private next<T>(action: () => Promise<T>): Promise<T> {
    const done = this.queue.then(action)
    this.queue = done.catch(() => {})
    return done
  }

  /** Notes it when the GPU is lost: its driver was reset, or the machine slept. */
  private async watch(): Promise<void> {
    const { reason, message } = await this.device.lost
    if (reason === 'destroyed') return
    this.failure = new GpuLostError(firstLine(message) || 'its driver gives no reason')
  }

  /** Throws what went wrong since the last time. */
  private check(): void {
    if (this.failure) throw this.failure
  }

  /** What a promise gives, or why the GPU cannot. */
  private async waiting<T>(promise: Promise<T>): Promise<T> {
    try {
      const value = await promise
      this.check()
      return value
    } catch (error) {
      // A loss is known a moment after what it interrupts.
      await Promise.race([this.gone, new Promise(resolve => setTimeout(resolve, 200))])
      throw this.failure ?? error
    }
  }

  private prepare(dispatches: readonly Dispatch[]): Promise<Prepared[]> {
    return this.waiting(
      Promise.all(
        dispatches.map(async dispatch => ({ dispatch, ...(await this.pipelines.get(dispatch.kernel)) })),
      ),
    )
  }

  /** Moves variables next to each other, unless they are there. */
  private async bringTogether(family: Family, size: number): Promise<void> {
    if (family.memory) return
    const buffer = await this.reserve(size * bytesOf.f32)
    const encoder = this.device.createCommandEncoder()
    for (const [{ memory, size }, { offset }] of family.ranges(buffer, bytesOf.f32))
      encoder.copyBufferToBuffer(memory.buffer, memory.offset, buffer, offset, size * bytesOf.f32)
    this.device.queue.submit([encoder.finish()])
    this.replace(family.moveTo(buffer), buffer)
  }

  private async bringHalvesTogether(family: Family, size: number): Promise<void> {
    if (family.halfMemory) return
    const buffer = await this.reserve(size * bytesOf.f16)
    this.replace(family.moveHalvesTo(buffer), buffer)
  }

  /** Gives memory of variables back. */
  private replace(before: readonly GPUBuffer[], by: GPUBuffer): void {
    for (const buffer of before) {
      this.variableBytes -= buffer.size
      buffer.destroy()
    }
    this.variableBytes += by.size
    this.moves++
  }

  /** Throws MemoryError when the GPU never gives so much in one piece. */
  private checkSize(bytes: number): void {
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits
    const most = Math.min(maxBufferSize, maxStorageBufferBindingSize)
    if (bytes > most) {
      throw new MemoryError(
        `one tensor takes ${megabytes(bytes)} and this GPU gives ${megabytes(most)} in one piece: take less at once (--memory), or a smaller network`,
      )
    }
  }

  /** Throws MemoryError when the GPU does not have so much. */
  private async reserve(bytes: number): Promise<GPUBuffer> {
    this.checkSize(bytes)
    this.device.pushErrorScope('out-of-memory')
    const buffer = this.device.createBuffer({ size: bytes, usage: storageUsage() })
    const error = await this.waiting(this.device.popErrorScope())
    if (error) {
      throw new MemoryError(
        `the GPU has no ${megabytes(bytes)} left: take less at once (--memory), or a smaller network`,
      )
    }
    return buffer
  }
}

/** A dispatch with its pipeline. */
interface Prepared extends Pipeline {
  readonly dispatch: Dispatch
}

/** Kernels as people look at them. */
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

/** Copies one buffer over another of as many elements. */
function copyProgram(from: Buffer, to: Buffer): Program {
  const columns = from.size
  const access = { offset: 0, rowDims: [], columnStride: 1 }
  const load = { kind: 'load' as const, access: { ...access, buffer: from } }
  const work = {
    kind: 'rows' as const,
    rows: 1,
    columns,
    rowBlock: 1,
    values: [{ operation: load, inputs: [], extent: 'element' as const, dtype: from.dtype }],
    stores: [{ value: 0, access: { ...access, buffer: to } }],
    columnSums: [],
  }
  const instruction = { work, reads: [from], writes: [to], sharesRowBlocks: false }
  return { instructions: [instruction], inputs: [], outputs: [], variables: [from] }
}

function owned(storage: Storage): GpuStorage {
  if (!(storage instanceof GpuStorage)) throw new Error('a variable of another backend')
  return storage
}

const megabytes = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`
