// The GPU backend: it keeps variables, plans programs, and queues their runs.
import type { Backend, Executable, Storage } from '../../runtime/backend.ts'
import type { DType } from '../../graph/operations.ts'
import { withPauses, withoutPauses } from '../../compiler/pauses.ts'
import type { Buffer, Program } from '../../compiler/program.ts'
import { type Dispatch, type Precision, type Target, bytesOf } from '../kernels/kernel.ts'
import { lower } from '../passes/lower.ts'
import { type DeviceProgram, logitsAtOnce, planProgram } from '../passes/device-program.ts'
import { type OpenDevice, nameOf, openDevice } from './device.ts'
import { GpuExecutable, type HalfCopy, type PreparedDispatch } from './executable.ts'
import { GpuMemory } from './memory.ts'
import { nodeGpu } from './node.ts'
import { measurePeak } from './peak.ts'
import { type CompileProgress, Pipelines } from './pipelines.ts'
import { Readback } from './readback.ts'
import { GpuStorage, VariablePacks } from './variables.ts'
import { DeviceWatch } from './watch.ts'

export interface GpuOptions {
  /** Where adapters come from; by default Dawn in Node. */
  readonly gpu?: GPU
  /** f16 halves the bytes that products read, and allows tensor cores. Sums and parameters are float32 either way. */
  readonly precision?: Precision
  /** false does without subgroup matrices (tensor cores). */
  readonly subgroupMatrix?: boolean
  readonly progress?: CompileProgress
}

/** Starts the GPU backend on the fastest adapter. Throws GpuError if there is none, or none that has what is asked for. */
export async function gpuBackend(options: GpuOptions = {}): Promise<GpuBackend> {
  const gpu = options.gpu ?? (await nodeGpu())
  return new GpuBackend(await openDevice(gpu, options), options.progress)
}

export class GpuBackend implements Backend {
  readonly description: string
  readonly precision: Precision
  readonly scalesLoss: boolean
  readonly logitsAtOnce: number
  readonly target: Target
  /** Whether it is a GPU, rather than a driver that computes on the CPU. */
  readonly isReal: boolean
  /** The GPU's name, as its driver gives it. */
  readonly name: string
  /** NaN until measurePeak() has run. */
  peakGflops = NaN
  readonly capacity = { most: Infinity, usual: Infinity }
  private readonly device: GPUDevice
  private readonly hasTimestamps: boolean
  private readonly pipelines: Pipelines
  private readonly watch: DeviceWatch
  private readonly memory: GpuMemory
  private readonly readback: Readback
  /** The planning of the last program. */
  private planning: Promise<unknown> = Promise.resolve()
  /** The last command to be queued. */
  private queue: Promise<unknown> = Promise.resolve()

  constructor({ device, adapter, target, precision, hasTimestamps }: OpenDevice, progress?: CompileProgress) {
    this.device = device
    this.target = target
    this.precision = precision
    // Gradients of a mean over many tokens are smaller than f16 can hold.
    this.scalesLoss = precision === 'f16'
    this.logitsAtOnce = logitsAtOnce(precision, device.limits.maxStorageBufferBindingSize)
    this.hasTimestamps = hasTimestamps
    this.pipelines = new Pipelines(device, progress)
    this.watch = new DeviceWatch(device)
    this.memory = new GpuMemory(device, this.watch)
    this.readback = new Readback(device)
    this.isReal = !adapter.info.isFallbackAdapter
    const matrix = target.subgroupMatrix
    const products = matrix
      ? `f16 products in subgroup matrices of ${matrix.m}x${matrix.n}x${matrix.k}`
      : `${precision} products`
    this.name = nameOf(adapter)
    this.description = `${this.isReal ? 'GPU' : 'GPU in software'}, ${this.name}, ${products}`
  }

  allocate(size: number): Promise<Storage> {
    return this.memory.allocate(size)
  }

  /** The GPU memory in use: by each variable, and by temporaries, which all programs share. */
  get allocated(): { readonly variableBytes: number; readonly temporaryBytes: number } {
    return { variableBytes: this.memory.variableBytes, temporaryBytes: this.memory.pool.bytes }
  }

  async read(storage: Storage, size: number, dtype: DType): Promise<Float32Array | Int32Array> {
    const take = await this.next(async () => {
      this.watch.check()
      const { buffer, offset } = owned(storage).memory
      const encoder = this.device.createCommandEncoder()
      const copied = this.readback.copy(encoder, [{ buffer, offset: offset / bytesOf.f32, size, dtype }])
      this.device.queue.submit([encoder.finish()])
      return copied
    })
    const [data] = await this.watch.waiting(take())
    return data
  }

  write(storage: Storage, data: Float32Array | Int32Array): Promise<void> {
    return this.next(async () => {
      this.watch.check()
      const variable = owned(storage)
      const { buffer, offset } = variable.memory
      this.device.queue.writeBuffer(buffer, offset, data.buffer, data.byteOffset, data.byteLength)
      variable.isHalfCurrent = false
    })
  }

  async load(given: Program, storages: readonly Storage[]): Promise<Executable> {
    this.watch.check()
    const known = new Map(given.variables.map(({ variable }, i) => [variable, owned(storages[i])]))
    const storageOf = ({ variable }: Buffer): GpuStorage => {
      const storage = known.get(variable)
      if (!storage) throw new Error('a program uses a variable that it does not name')
      return storage
    }
    const { packs, planned } = await this.plan(given, storageOf)
    this.memory.checkSize(planned.sizes.reduce((most, bytes) => Math.max(most, bytes), 0))
    const halfCopies = new Map<Buffer, HalfCopy>()
    for (const [variable, copy] of planned.halfCopies) {
      const copying = withoutPauses(lower(copyProgram(variable, copy), planned.typeOf, this.target))
      const refresh = await this.prepare(copying.dispatches)
      halfCopies.set(copy, { storage: storageOf(variable), refresh })
    }
    const prepared = await this.prepare(planned.dispatches)
    const { device, memory, readback, watch, hasTimestamps } = this
    return new GpuExecutable(
      { device, memory, readback, watch, hasTimestamps, next: action => this.next(action) },
      { planned, packs, storageOf, prepared, halfCopies },
    )
  }

  /** Measures how fast products are, in well under a second. */
  async measurePeak(): Promise<void> {
    this.peakGflops = await measurePeak(this, this.hasTimestamps)
  }

  async close(): Promise<void> {
    await this.queue
    await this.device.queue.onSubmittedWorkDone().catch(() => {})
    this.watch.fail(new Error('this backend is closed: its variables and compiled functions are gone'))
    this.device.destroy()
  }

  /** Plans a program after all earlier ones, since it has to take variables as these have packed them. */
  private plan(
    program: Program,
    storageOf: (variable: Buffer) => GpuStorage,
  ): Promise<{ packs: VariablePacks; planned: DeviceProgram }> {
    const done = this.planning.then(async () => {
      const packs = new VariablePacks(program.variables, storageOf)
      const planned = await withPauses(planProgram(program, this.precision, this.target, packs.places))
      packs.add(planned.places, planned.halfCopies)
      return { packs, planned }
    })
    this.planning = done.catch(() => {})
    return done
  }

  /** Does something once all earlier actions are done. */
  private next<T>(action: () => Promise<T>): Promise<T> {
    const done = this.queue.then(action)
    this.queue = done.catch(() => {})
    return done
  }

  private prepare(dispatches: readonly Dispatch[]): Promise<PreparedDispatch[]> {
    return this.watch.waiting(
      Promise.all(
        dispatches.map(async dispatch => ({ dispatch, ...(await this.pipelines.get(dispatch.kernel)) })),
      ),
    )
  }
}

/** A program that copies one buffer to another of the same size. */
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
