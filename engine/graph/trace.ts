/** What compile() records while it calls a function to build its graph. */
import type { IndexCheck } from './index-checks.ts'
import { type Recorder, type Tensor, useRecorder } from './tensor.ts'

/** How a backend wants graphs to be built. */
export interface GraphPreferences {
  /**
   * Whether grad() multiplies a loss by a power of two before it differentiates, and divides the gradients by it at the
   * end. Half precision needs this: small gradients would underflow.
   */
  readonly scalesLoss: boolean
  /** About how many logits linearCrossEntropy computes at a time. Each chunk reads and writes all of the weights. */
  readonly logitsAtOnce: number
}

const defaults: GraphPreferences = { scalesLoss: false, logitsAtOnce: 2 ** 24 }

/** The nodes made while a function is traced, and the variables that it assigns. */
export class Trace implements Recorder {
  /** The new value of each variable that the function assigns. */
  readonly assignments = new Map<Tensor, Tensor>()
  readonly indexChecks: IndexCheck[] = []
  microbatch = 0
  private readonly preferences: GraphPreferences
  private readonly nodes = new Map<string, Tensor>()
  private static current: Trace | undefined

  constructor(preferences: GraphPreferences) {
    this.preferences = preferences
  }

  /** The trace of the function that is being called; undefined outside of compile(). */
  static get active(): Trace | undefined {
    return Trace.current
  }

  /** Those of the active trace; defaults that suit any backend where there is none. */
  static get preferences(): GraphPreferences {
    return Trace.current?.preferences ?? defaults
  }

  shared(key: string, make: () => Tensor): Tensor {
    const keyInMicrobatch = `${this.microbatch}|${key}`
    const found = this.nodes.get(keyInMicrobatch)
    if (found) return found
    const node = make()
    this.nodes.set(keyInMicrobatch, node)
    return node
  }

  /** Calls a function with this trace as the active one. */
  record<T>(body: () => T): T {
    const outer = Trace.current
    Trace.activate(this)
    try {
      return body()
    } finally {
      Trace.activate(outer)
    }
  }

  private static activate(trace: Trace | undefined): void {
    Trace.current = trace
    useRecorder(trace)
  }
}

/** Puts the nodes that `body` makes into a microbatch (see Tensor.microbatch). */
export function inMicrobatch<T>(microbatch: number, body: () => T): T {
  const trace = Trace.active
  if (!trace) return body()
  const outer = trace.microbatch
  trace.microbatch = microbatch
  try {
    return body()
  } finally {
    trace.microbatch = outer
  }
}
