/** Orders the phases of a program, decides where threads wait for each other, and assigns memory to temporaries. */
import type { Buffer, Instruction } from '../../compiler/program.ts'
import { type Lifetime, planMemory } from '../../compiler/memory-plan.ts'
import type { Pausing } from '../../compiler/pauses.ts'
import type { CallChain } from './lower.ts'

/** A phase, which is a chain of calls, and whether all threads wait for each other before it. */
export interface Step {
  readonly phase: CallChain
  readonly barrier: boolean
}

/**
 * An estimate of the time that one thread takes, as the number of floating-point operations in that time at 100 GFLOP/s.
 * Memory is assumed to move at 20 GB/s.
 */
export const workOf = (steps: readonly Step[]): number =>
  steps.flatMap(({ phase }) => phase).reduce((sum, { flops, bytes }) => sum + flops + 5 * bytes, 0)

/** A phase, with what decides when it may run. */
interface PendingPhase {
  readonly phase: CallChain
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly parallel: Instruction | undefined
  /** Whether it takes so much memory that it should run no earlier than necessary. */
  readonly takesMemory: boolean
  /** How many barriers come before it; undefined until it is placed. */
  interval: number | undefined
  /** A conflicting phase that had not finished when last checked. */
  blocker: PendingPhase | undefined
}

/** A use of memory by a phase. */
interface Use {
  readonly by: PendingPhase
  readonly isWrite: boolean
}

/** The first `count` of a buffer's uses, which come before a phase. */
interface EarlierUses {
  readonly uses: readonly Use[]
  readonly count: number
}

/** Which earlier phases each phase has to wait for, because of the memory that they use. */
class Conflicts {
  /** For each buffer of a phase, the earlier uses that conflict with its own. */
  private readonly earlier = new Map<PendingPhase, EarlierUses[]>()

  constructor(phases: readonly PendingPhase[]) {
    const all = new Map<Buffer, Use[]>()
    const writes = new Map<Buffer, Use[]>()
    for (const by of phases) {
      const earlier: EarlierUses[] = []
      for (const allocation of by.reads) {
        const uses = listOf(writes, allocation)
        earlier.push({ uses, count: uses.length })
      }
      for (const allocation of by.writes) {
        const uses = listOf(all, allocation)
        earlier.push({ uses, count: uses.length })
      }
      for (const allocation of by.reads) listOf(all, allocation).push({ by, isWrite: false })
      for (const allocation of by.writes) {
        listOf(all, allocation).push({ by, isWrite: true })
        listOf(writes, allocation).push({ by, isWrite: true })
      }
      this.earlier.set(by, earlier)
    }
  }

  /** An unfinished earlier phase whose result a phase needs or whose memory it overwrites, if there is one. */
  blockerOf(phase: PendingPhase, isOver: (other: PendingPhase) => boolean): PendingPhase | undefined {
    for (const { uses, count } of this.earlier.get(phase) ?? []) {
      for (let i = count - 1; i >= 0; i--) {
        const { by, isWrite } = uses[i]
        if (phase.parallel !== undefined && by.parallel === phase.parallel) continue
        if (!isOver(by)) return by
        // All uses before a write finished before it, unless it is one of several parallel writes.
        if (isWrite && by.parallel === undefined) break
      }
    }
    return undefined
  }
}

function listOf<K, V>(lists: Map<K, V[]>, key: K): V[] {
  const list = lists.get(key) ?? []
  lists.set(key, list)
  return list
}

/** How many phases after the next one are searched for some that need not wait. */
const lookahead = 512
/** How many elements a phase may allocate earlier than necessary. */
const earlyElements = 1 << 18
/** How much more memory a reordered program may take. */
const earlyShare = 0.01

/** The order of a program's phases, and the memory for its temporaries. */
export interface BarrierSchedule {
  readonly steps: readonly Step[]
  /** Byte offset of each temporary from the first. */
  readonly offsets: ReadonlyMap<Buffer, number>
  readonly bytes: number
}

/**
 * Orders phases so that they need few barriers: later phases that need not wait move ahead of a barrier, such as the next
 * steps of other matrices' optimizers. Keeps the given order if that takes clearly less memory. held: buffers that the
 * caller reads or writes, which stay alive throughout.
 */
export function* scheduleBarriers(
  phases: readonly CallChain[],
  held: readonly Buffer[],
): Pausing<BarrierSchedule> {
  const inOrder = assignTemporaries(yield* placeBarriers(phases, 0), held)
  yield
  const early = assignTemporaries(yield* placeBarriers(phases, lookahead), held)
  return early.bytes <= inOrder.bytes * (1 + earlyShare) ? early : inOrder
}

/** Places a barrier before each phase that conflicts with one since the last barrier. */
function* placeBarriers(phases: readonly CallChain[], ahead: number): Pausing<Step[]> {
  const all = phases.map((phase): PendingPhase => {
    const writes = [...new Set(phase.flatMap(call => call.writes.map(({ allocation }) => allocation)))]
    return {
      phase,
      reads: [...new Set(phase.flatMap(call => call.reads.map(({ allocation }) => allocation)))],
      writes,
      parallel: phase.length === 1 ? phase[0].parallel : undefined,
      takesMemory: writes.some(allocation => !allocation.variable && allocation.size > earlyElements),
      interval: undefined,
      blocker: undefined,
    }
  })
  const conflicts = new Conflicts(all)
  const steps: Step[] = []
  let interval = 0
  const isOver = (other: PendingPhase) => other.interval !== undefined && other.interval < interval
  /** Whether a phase conflicts with one that was placed since the last barrier, or with one that it would overtake. */
  const mustWait = (phase: PendingPhase): boolean => {
    if (!phase.blocker || isOver(phase.blocker)) phase.blocker = conflicts.blockerOf(phase, isOver)
    return phase.blocker !== undefined
  }
  const place = (next: PendingPhase, barrier: boolean) => {
    next.interval = interval
    steps.push({ phase: next.phase, barrier })
  }
  // A linked list of the phases that are not placed yet: the index of the one after each.
  const following = Int32Array.from(all, (_, i) => i + 1)
  for (let first = 0; first < all.length; first = following[first]) {
    yield
    const next = all[first]
    const barrier = mustWait(next)
    if (barrier) {
      let last = first
      for (let seen = 0; seen < ahead && following[last] < all.length; seen++) {
        const other = all[following[last]]
        if (other.takesMemory || mustWait(other)) last = following[last]
        else {
          place(other, false)
          following[last] = following[following[last]]
        }
      }
      interval++
    }
    place(next, barrier)
  }
  return steps
}

/**
 * Assigns byte offsets to the temporaries of steps. Phases between two barriers run at the same time, so temporaries
 * share memory only if a barrier separates them.
 */
function assignTemporaries(steps: readonly Step[], held: readonly Buffer[]): BarrierSchedule {
  const spans = new Map<Buffer, { first: number; last: number }>()
  let interval = 0
  const use = ({ allocation }: Buffer, at: number) => {
    if (allocation.variable) return
    const span = spans.get(allocation)
    if (span) span.last = Math.max(span.last, at)
    else spans.set(allocation, { first: at, last: at })
  }
  for (const { phase, barrier } of steps) {
    if (barrier) interval++
    for (const { reads, writes } of phase) for (const buffer of [...reads, ...writes]) use(buffer, interval)
  }
  for (const { allocation } of held)
    if (!allocation.variable) spans.set(allocation, { first: 0, last: interval })
  const lifetimes: Lifetime[] = [...spans].map(([allocation, span]) => ({
    bytes: allocation.size * 4,
    ...span,
  }))
  const { addresses, bytes } = planMemory(lifetimes)
  return {
    steps,
    offsets: new Map([...spans.keys()].map((allocation, i) => [allocation, addresses[i]])),
    bytes,
  }
}
