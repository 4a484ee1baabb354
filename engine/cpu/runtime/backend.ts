/** The CPU backend: compiles programs to WebAssembly and runs them on worker threads. */
import { availableParallelism } from 'node:os'
import type {
  Backend,
  Executable,
  Step as ExplainedStep,
  Queued,
  StepTime,
  Storage,
} from '../../runtime/backend.ts'
import type { DType } from '../../graph/operations.ts'
import { withPauses } from '../../compiler/pauses.ts'
import type { Program, View } from '../../compiler/program.ts'
import { assemble, kernelModule } from './assemble.ts'
import { availableBytes, checkAddresses } from './available.ts'
import { barrierBytes, dispatcherWat } from './dispatcher.ts'
import { isRevectorizing } from './flags.js'
import type { Kernel, KernelOperand } from '../kernels/kernel.ts'
import { lower } from '../passes/lower.ts'
import type { MicroKernel } from '../kernels/matmul/micro-kernel.ts'
import { SharedMemory } from './memory.ts'
import { type MeasuredTile, chooseMicroKernel } from './probe.ts'
import { type Step, scheduleBarriers, workOf } from '../passes/barriers.ts'
import { Threads } from './threads.ts'

/**
 * Starts the CPU backend: WebAssembly SIMD on this many threads (by default, one per core). reason: why the CPU was
 * chosen, for the description. alone: programs with less work than this, in floating-point operations, run on one thread.
 * The default is about 0.2 ms, since waking other threads and waiting for them takes longer. Throws MemoryError if the
 * system leaves too little memory.
 */
export async function cpuBackend({
  threads = availableParallelism(),
  reason,
  alone = 20e6,
}: { threads?: number; reason?: string; alone?: number } = {}): Promise<CpuBackend> {
  checkAddresses(threads)
  const measured = await chooseMicroKernel(assemble)
  const memory = new SharedMemory()
  const barrier = memory.allocate(barrierBytes)
  const dispatcher = await assemble(dispatcherWat)
  const pool = new Threads(threads, { memory: memory.memory, dispatcher, barrier })
  return new CpuBackend({ memory, pool, threads, alone, measured, reason })
}

/** The bytes that 32-bit addresses can reach, less some room for the programs themselves. */
const addressable = 2 ** 32 - 2 ** 26

/** The memory of a variable. */
class CpuStorage {
  readonly address: number

  constructor(address: number) {
    this.address = address
  }
}

/** A program in memory, in the format of the dispatcher. */
interface ProgramTable {
  readonly program: number
  readonly counters: number
  /** Writes the program with the current addresses of its operands. */
  readonly write: (addressOf: (operand: KernelOperand) => number) => void
}

/** The components of the backend. */
interface Components {
  readonly memory: SharedMemory
  readonly pool: Threads
  readonly threads: number
  readonly alone: number
  readonly measured: readonly [MeasuredTile, ...MeasuredTile[]]
  readonly reason: string | undefined
}

export class CpuBackend implements Backend {
  readonly threads: number
  readonly tile: MicroKernel
  /** A short description of what computes. */
  readonly description: string
  readonly scalesLoss = false
  /** 64 MiB. */
  readonly logitsAtOnce = 2 ** 24
  /** The speed that the micro-kernel reached on one thread at the start, times the number of threads. */
  readonly peakGflops: number
  readonly capacity = { most: addressable, usual: Math.min(addressable, 0.75 * availableBytes()) }
  private readonly memory: SharedMemory
  private readonly pool: Threads
  private readonly alone: number
  /** The index of every kernel so far in the threads' tables. */
  private readonly kernels = new Map<string, number>()
  private tableSize = 0
  private scratch = { address: 0, bytes: 0 }
  /** The last action in the queue. Programs run one at a time. */
  private queue: Promise<unknown> = Promise.resolve()

  constructor({ memory, pool, threads, alone, measured, reason }: Components) {
    const [{ tile, gflops }] = measured
    this.memory = memory
    this.pool = pool
    this.threads = threads
    this.alone = alone
    const rates = measured.map(
      other => `${other.tile.rows}x${other.tile.columns} ${other.right ? other.gflops.toFixed(0) : 'wrong'}`,
    )
    const bits = isRevectorizing() ? 256 : 128
    this.description = `CPU${reason ? ` (${reason})` : ''}, ${threads} threads, ${bits}-bit WebAssembly; microkernel ${tile.rows}x${tile.columns} (GFLOP/s a thread: ${rates.join(', ')})`
    this.peakGflops = gflops * threads
    this.tile = tile
  }

  async allocate(size: number): Promise<Storage> {
    return new CpuStorage(this.memory.allocate(size * 4))
  }

  read(storage: Storage, size: number, dtype: DType): Promise<Float32Array | Int32Array> {
    return this.next(async () => this.numbers(addressOf(storage), size, dtype).slice())
  }

  write(storage: Storage, data: Float32Array | Int32Array): Promise<void> {
    return this.next(async () => this.put(addressOf(storage), data))
  }

  async load(program: Program, storages: readonly Storage[]): Promise<Executable> {
    const phases = await withPauses(lower(program, this.tile, this.threads))
    await this.addKernels(phases.flat().map(({ kernel }) => kernel))
    const held = [...program.inputs, ...program.outputs.map(({ buffer }) => buffer)]
    const { steps, offsets, bytes } = await withPauses(scheduleBarriers(phases, held))
    this.memory.reserveArena(bytes)

    const variables = new Map(program.variables.map((buffer, i) => [buffer.variable, addressOf(storages[i])]))
    // The arena's address at the start of the last run. It may move while a program runs.
    let arena = -1
    const addressIn = ({ buffer, offset }: KernelOperand): number => {
      const { allocation } = buffer
      const start = allocation.variable
        ? variables.get(allocation.variable)
        : arena + (offsets.get(allocation) ?? 0)
      if (start === undefined) throw new Error('a program uses a variable that it does not list')
      return start + offset * 4
    }
    const table = this.layOut(steps)
    const threads = workOf(steps) < this.alone ? 1 : this.threads
    const run = async (inputs: readonly (Float32Array | Int32Array)[]) => {
      if (arena !== this.memory.arena) {
        arena = this.memory.arena
        table.write(addressIn)
      }
      program.inputs.forEach((buffer, i) => this.put(addressIn({ buffer, offset: 0 }), inputs[i]))
      this.memory.integers(table.counters, steps.length).fill(0)
      await this.launch(table, threads)
      return program.outputs.map(({ buffer, offset, shape }: View) => {
        const size = shape.reduce((product, extent) => product * extent, 1)
        return this.numbers(addressIn({ buffer, offset }), size, buffer.dtype).slice()
      })
    }
    const profile = async (inputs: readonly (Float32Array | Int32Array)[]) => {
      await run(inputs)
      const times: StepTime[] = []
      for (const step of steps) {
        const one = this.layOut([{ ...step, barrier: false }])
        one.write(addressIn)
        this.memory.integers(one.counters, 1).fill(0)
        const start = performance.now()
        await this.launch(one, threads)
        times.push({
          kernels: step.phase.map(({ kernel }) => kernel.name),
          items: step.phase[0].kernel.items,
          milliseconds: performance.now() - start,
          flops: sumOf(step.phase, ({ flops }) => flops),
          bytes: sumOf(step.phase, ({ bytes }) => bytes),
        })
      }
      return times
    }
    const calls = steps.flatMap(({ phase }) => phase)
    return {
      temporaryBytes: bytes,
      dispatches: calls.length,
      bytesMoved: sumOf(calls, call => call.bytes),
      run: async inputs => queued(await this.next(() => run(inputs))),
      profile: inputs => this.next(() => profile(inputs)),
      steps: () => steps.map(describe),
    }
  }

  async close(): Promise<void> {
    await this.queue
    await this.pool.close()
  }

  /** Runs an action when all actions before it have finished. */
  private next<T>(action: () => Promise<T>): Promise<T> {
    const done = this.queue.then(action)
    this.queue = done.catch(() => {})
    return done
  }

  /** Runs a program in memory on some of the threads. */
  private launch({ program, counters }: ProgramTable, threads: number): Promise<void> {
    const { address: scratch, bytes: scratchBytes } = this.scratch
    return this.pool.run({ program, counters, threads, scratch, scratchBytes })
  }

  private numbers(address: number, size: number, dtype: DType): Float32Array | Int32Array {
    return dtype === 'float32' ? this.memory.floats(address, size) : this.memory.integers(address, size)
  }

  private put(address: number, data: Float32Array | Int32Array): void {
    if (data instanceof Float32Array) this.memory.floats(address, data.length).set(data)
    else this.memory.integers(address, data.length).set(data)
  }

  private async addKernels(kernels: readonly Kernel[]): Promise<void> {
    const wanted = new Map(kernels.map(kernel => [kernel.name, kernel]))
    const added = [...wanted.values()].filter(({ name }) => !this.kernels.has(name))
    const scratchBytes = kernels.reduce(
      (most, kernel) => Math.max(most, Math.ceil(kernel.scratchBytes / 4096) * 4096),
      this.scratch.bytes,
    )
    if (scratchBytes > this.scratch.bytes) {
      this.scratch = { address: this.memory.allocate(scratchBytes * this.threads), bytes: scratchBytes }
    }
    if (added.length === 0) return
    const module = await assemble(kernelModule(added))
    // Only after assembly succeeds: an index stands for a kernel that the threads' tables will hold.
    const first = this.tableSize
    this.tableSize += added.length
    added.forEach(({ name }, i) => this.kernels.set(name, first + i))
    this.pool.addKernels(
      module,
      added.map(({ name }) => name),
      first,
    )
  }

  /** Allocates memory for the dispatcher's list of phases, its counters and the calls' arguments. */
  private layOut(steps: readonly Step[]): ProgramTable {
    const calls = steps.flatMap(({ phase }) => phase)
    const program = this.memory.allocate((1 + steps.length * 3 + calls.length * 2) * 4)
    const counters = this.memory.allocate(steps.length * 4)
    const operands = this.memory.allocate(calls.reduce((sum, call) => sum + call.operands.length, 0) * 4)
    const write = (addressOf: (operand: KernelOperand) => number) => {
      const list = [steps.length]
      const addresses: number[] = []
      for (const { phase, barrier } of steps) {
        list.push(Number(barrier), phase[0].kernel.items, phase.length)
        for (const call of phase) {
          list.push(this.kernels.get(call.kernel.name) ?? 0, operands + addresses.length * 4)
          addresses.push(...call.operands.map(addressOf))
        }
      }
      this.memory.integers(program, list.length).set(list)
      this.memory.integers(operands, addresses.length).set(addresses)
    }
    return { program, counters, write }
  }
}

/** A step as people look at it. */
const describe = ({ phase, barrier }: Step): ExplainedStep => ({
  kernels: phase.map(({ kernel, instruction, role, reads, writes, flops, bytes }) => ({
    name: kernel.name,
    instructions: instruction ? [instruction] : [],
    reads,
    writes,
    flops,
    bytes,
    ...(role && { role }),
  })),
  barrier,
})

function addressOf(storage: Storage): number {
  if (!(storage instanceof CpuStorage)) throw new Error('the variable belongs to another backend')
  return storage.address
}

const sumOf = <T>(items: readonly T[], value: (item: T) => number): number =>
  items.reduce((sum, item) => sum + value(item), 0)

const queued = (results: (Float32Array | Int32Array)[]): Queued => ({ results: Promise.resolve(results) })
