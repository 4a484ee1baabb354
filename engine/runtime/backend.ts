/** What the engine asks of a backend, the backend in use, and the queue of what is asked of it. */
import type { DType } from '../graph/operations.ts'
import type { GraphPreferences } from '../graph/trace.ts'
import type { Buffer, Instruction, Program } from '../compiler/program.ts'

/** The memory of a variable. Only its backend knows what is inside. */
export type Storage = object

/** A run that has been queued. Others may be queued before its results arrive. */
export interface Queued {
  /** In the order of the program's outputs. */
  readonly results: Promise<(Float32Array | Int32Array)[]>
}

/** A program that a backend has prepared to run. */
export interface Executable {
  /** Bytes of temporaries, without the variables. */
  readonly temporaryBytes: number
  /** The number of kernels that a run starts. */
  readonly dispatches: number
  /** Bytes that these kernels read and write, counted by their operands. */
  readonly bytesMoved: number
  /** Runs it once. inputs: in the program's order. */
  run(inputs: readonly (Float32Array | Int32Array)[]): Promise<Queued>
  /** Runs it step by step, and measures each step. */
  profile(inputs: readonly (Float32Array | Int32Array)[]): Promise<StepTime[]>
  /** What runs, in order: what profile() measures, for people who look at it. */
  steps(): Step[]
}

/** Kernels that run over the same items, one after the other for each item. */
export interface Step {
  readonly kernels: readonly KernelCall[]
  /** Whether all threads wait for each other before it; undefined if the hardware decides that. */
  readonly barrier: boolean | undefined
}

/** A kernel in a program. */
export interface KernelCall {
  /** The backend's name for it. */
  readonly name: string
  /** The instructions that it executes, or a part of one. */
  readonly instructions: readonly Instruction[]
  /** What it does for its instruction, if that is not all: 'pack', or 'part 2 of 3'. */
  readonly role?: string
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly flops: number
  readonly bytes: number
}

/** How long kernels took that run together over the same items. */
export interface StepTime {
  readonly kernels: readonly string[]
  readonly items: number
  readonly milliseconds: number
  /** Floating-point operations of their matrix products. */
  readonly flops: number
  /** Bytes read and written. */
  readonly bytes: number
}

/** Stores variables and runs programs; it does not know how programs are made. */
export interface Backend extends GraphPreferences {
  /** A short name of the hardware and how it is used, for people. */
  readonly description: string
  /** The best speed of matrix products on this machine, in GFLOP/s, measured at the start. */
  readonly peakGflops: number
  /**
   * Bytes for variables and temporaries together: the most that the machine has, and how much to use by default.
   * Infinity where there is no way to know.
   */
  readonly capacity: { readonly most: number; readonly usual: number }
  /** Reserves memory for a variable of this many elements. */
  allocate(size: number): Promise<Storage>
  read(storage: Storage, size: number, dtype: DType): Promise<Float32Array | Int32Array>
  write(storage: Storage, data: Float32Array | Int32Array): Promise<void>
  /** Prepares a program. storages: the memory of its variables, in their order. */
  load(program: Program, storages: readonly Storage[]): Promise<Executable>
  /** Stops its threads, or releases the GPU. */
  close(): Promise<void>
}

let current: Backend | undefined

/** Sets the backend that variables and compiled functions use from now on. */
export function useBackend(backend: Backend): void {
  current = backend
}

/** Throws when no backend has been chosen. */
export function currentBackend(): Backend {
  if (!current) throw new Error('no backend: call useBackend(await cpuBackend()) first')
  return current
}

let last: Promise<unknown> = Promise.resolve()

/** Calls `action` once `ready` is ready and all earlier actions have finished, so that calls run in their order. */
export function inTurn<Ready, Result>(
  ready: Promise<Ready>,
  action: (value: Ready) => Promise<Result>,
): Promise<Result> {
  const before = last
  const done = (async () => {
    // An earlier failure is reported to its own caller.
    await before.catch(() => {})
    return action(await ready)
  })()
  last = done
  return done
}
