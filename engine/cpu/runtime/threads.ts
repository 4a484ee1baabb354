/** The worker threads of the CPU backend. */
import { Worker } from 'node:worker_threads'
import { MemoryError } from '../../runtime/memory-error.ts'

/** The data that a thread starts with. */
export interface ThreadData {
  readonly memory: WebAssembly.Memory
  readonly dispatcher: WebAssembly.Module
  readonly thread: number
  /** Address of the barrier's state. */
  readonly barrier: number
}

/** A message to a thread: new kernels, or a program to run. */
export type ThreadMessage =
  | {
      readonly kind: 'kernels'
      readonly module: WebAssembly.Module
      readonly names: readonly string[]
      readonly first: number
    }
  | {
      readonly kind: 'run'
      /** How many threads run the program, counted from the first. */
      readonly threads: number
      readonly program: number
      readonly counters: number
      readonly scratch: number
      readonly scratchBytes: number
    }

/** Threads that run programs together over one memory. They keep the process alive only while a program runs. */
export class Threads {
  private readonly workers: readonly Worker[]
  private finish: (() => void) | undefined
  private fail: ((error: unknown) => void) | undefined
  /** Why a thread ended. After that, no program can run. */
  private failure: unknown

  constructor(count: number, data: Omit<ThreadData, 'thread'>) {
    this.workers = Array.from({ length: count }, (_, thread) => {
      const workerData: ThreadData = { ...data, thread }
      const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData, execArgv: [] })
      worker.on('error', (error: unknown) => {
        this.failure ??= threadError(error, count)
        this.fail?.(this.failure)
      })
      worker.on('message', () => this.finish?.())
      worker.unref()
      return worker
    })
  }

  /** Gives a module of kernels to every thread, as the table's entries starting at first. */
  addKernels(module: WebAssembly.Module, names: readonly string[], first: number): void {
    this.tell({ kind: 'kernels', module, names, first })
  }

  /** Runs a program that is stored in memory. Resolves when all its threads have finished. */
  async run(program: Omit<ThreadMessage & { kind: 'run' }, 'kind'>): Promise<void> {
    if (this.failure) throw this.failure
    const [first] = this.workers
    first.ref()
    try {
      await new Promise<void>((resolve, reject) => {
        this.finish = resolve
        this.fail = reject
        this.tell({ kind: 'run', ...program }, program.threads)
      })
    } finally {
      first.unref()
    }
  }

  async close(): Promise<void> {
    this.failure ??= new Error('the backend is closed')
    await Promise.all(this.workers.map(worker => worker.terminate()))
  }

  private tell(message: ThreadMessage, count = this.workers.length): void {
    for (const worker of this.workers.slice(0, count)) worker.postMessage(message)
  }
}

/** Describes errors that end a thread at its start, which come from the system's limits on threads and memory. */
function threadError(error: unknown, threads: number): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (code !== 'ERR_WORKER_INIT_FAILED' && code !== 'ERR_WORKER_OUT_OF_MEMORY') return error
  return new MemoryError(
    `the system has too few resources for ${threads} threads (${code}): use fewer threads`,
  )
}
