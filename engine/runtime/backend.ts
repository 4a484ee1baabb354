import type { DType } from '../graph/operations.ts'
import type { Buffer, Instruction, Program } from '../compiler/program.ts'

/** Memory of a variable, which only its backend sees into. */
export type Storage = object

/** A program under way: results come once it is done, but the next one may be queued before. */
export interface Queued {
  /** In the program's order. */
  readonly results: Promise<(Float32Array | Int32Array)[]>
}

/** A program made ready to run on a backend. */
export interface Executable {
  /** Bytes that its temporaries take, beside the variables. */
  readonly temporaryBytes: number
  /** Kernels that a run starts. */
  readonly dispatches: number
  /** Bytes that these read and write, by their operands. */
  readonly bytesMoved: number
  /** Runs it once, on inputs in the program's order. */
  run(inputs: readonly (Float32Array | Int32Array)[]): Promise<Queued>
  /** Runs it step by step, and says what each step took. */
  profile(inputs: readonly (Float32Array | Int32Array)[]): Promise<StepTime[]>
  /** What runs, in order: what profile() times, for people who look at it. */
  steps(): Step[]
}

/** Kernels that run over the same items, one after the other for each of these. */
export interface Step {
  readonly kernels: readonly KernelCall[]
  /** Whether all threads wait for each other before it; undefined where the hardware decides that. */
  readonly barrier: boolean | undefined
}

/** A kernel in a program. */
export interface KernelCall {
  /** The backend's name for it. */
  readonly name: string
  /** The instructions that it executes, or a part of one. */
  readonly instructions: readonly Instruction[]
  /** What it does for its instruction, where that is not all: 'pack', or 'part 2 of 3'. */
  readonly role?: string
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly flops: number
  readonly bytes: number
}

/** How long the kernels took that run over the same items. */
export interface StepTime {
  readonly kernels: readonly string[]
  readonly items: number
  readonly milliseconds: number
  /** Floating-point operations of their products. */
  readonly flops: number
  /** Bytes read and written. */
  readonly bytes: number
}

/** What computes: it keeps variables and runs programs, and knows nothing of how they came about. */
export interface Backend {
  /** What computes, in a few words. */
  readonly description: string
  /** What products reach at best here, in GFLOP/s, as measured at start. */
  readonly peakGflops: number
  /** Whether gradients of a mean are to be computed as those of a sum, and scaled at the end: small ones would be lost. */
  readonly scalesLoss: boolean
  /** About how many logits linearCrossEntropy keeps at once: each chunk of them reads and writes all of the weights. */
  readonly logitsAtOnce: number
  /**
   * Bytes of variables and temporaries together: what can be had at most, and what should be taken if nobody says how
   * much. Infinity where only trying tells.
   */
  readonly capacity: { readonly most: number; readonly usual: number }
  /** Reserves memory for a variable of this many elements. */
  allocate(size: number): Promise<Storage>
  read(storage: Storage, size: number, dtype: DType): Promise<Float32Array | Int32Array>
  write(storage: Storage, data: Float32Array | Int32Array): Promise<void>
  /** storages: the memory of the program's variables, in their order. */
  load(program: Program, storages: readonly Storage[]): Promise<Executable>
  /** Ends its threads, or gives the GPU back. */
  close(): Promise<void>
}

let current: Backend | undefined

/** Makes a backend the one that variables and compiled functions use from here on. */
export function useBackend(backend: Backend): void {
  current = backend
}

/** Throws when no backend has been chosen. */
export function currentBackend(): Backend {
  if (!current) throw new Error('no backend: call useBackend(await cpuBackend()) first')
  return current
}

/** Whether the backend in use wants a loss scaled while its gradients are computed. */
export const scalesLoss = (): boolean => current?.scalesLoss ?? false

/** How many logits the backend in use wants at once. */
export const logitsAtOnce = (): number => current?.logitsAtOnce ?? 2 ** 24

let last: Promise<unknown> = Promise.resolve()

/** Does something once what it needs is ready and all that was asked for before has been done, or is queued. */
export function inTurn<Ready, Result>(
  ready: Promise<Ready>,
  action: (value: Ready) => Promise<Result>,
): Promise<Result> {
  const before = last
  const done = (async () => {
    // A failure before is for those who asked.
    await before.catch(() => {})
    return action(await ready)
  })()
  last = done
  return done
}
