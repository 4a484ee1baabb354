import type { Buffer, Instruction } from '../../compiler/program.ts'
import { type Lifetime, planMemory } from '../../compiler/memory-plan.ts'
import type { Pausing } from '../../compiler/pauses.ts'
import type { CallChain } from './lower.ts'

/** A phase, and whether all threads wait for each other before it. */
export interface Step {
  readonly phase: CallChain
  readonly barrier: boolean
}

/**
 * About how long one thread takes, as the floating-point operations that it does in that time at 100 GFLOP/s; what
 * it moves, it moves at 20 GB/s.
 */
export const workOf = (steps: readonly Step[]): number =>
  steps.flatMap(({ phase }) => phase).reduce((sum, { flops, bytes }) => sum + flops + 5 * bytes, 0)

/** A phase, with what decides when it may run. */
interface Waiting {
  readonly phase: CallChain
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly parallel: Instruction | undefined
  /** Whether it takes so much memory that it is not to run earlier than it must. */
  readonly takesMemory: boolean
  /** How many barriers come before it; undefined until it has been placed. */
  interval: number | undefined
  /** A phase that it conflicts with and that was not over when last looked at. */
  blocker: Waiting | undefined
}

/** A use of memory by a phase. */
interface Use {
  readonly by: Waiting
  readonly isWrite: boolean
}

/** Some uses of a buffer, of which so many are earlier than a phase. */
interface EarlierUses {
  readonly uses: readonly Use[]
  readonly count: number
}

/** What each phase has to wait for, by the uses of memory before it. */
class Conflicts {
  /** For each buffer of a phase, the uses that do not go together with its own. */
  private readonly earlier = new Map<Waiting, EarlierUses[]>()

  constructor(phases: readonly Waiting[]) {
    const all = new Map<Buffer, Use[]>()
    const writes = new Map<Buffer, Use[]>()
    for (const by of phases) {
      const earlier: EarlierUses[] = []
      for (const root of by.reads) {
        const uses = listOf(writes, root)
        earlier.push({ uses, count: uses.length })
      }
      for (const root of by.writes) {
        const uses = listOf(all, root)
        earlier.push({ uses, count: uses.length })
      }
      for (const root of by.reads) listOf(all, root).push({ by, isWrite: false })
      for (const root of by.writes) {
        listOf(all, root).push({ by, isWrite: true })
        listOf(writes, root).push({ by, isWrite: true })
      }
      this.earlier.set(by, earlier)
    }
  }

  /** One of the earlier phases that a phase needs, or whose memory it overwrites, and that is not over. */
  blockerOf(phase: Waiting, isOver: (other: Waiting) => boolean): Waiting | undefined {
    for (const { uses, count } of this.earlier.get(phase) ?? []) {
      for (let i = count - 1; i >= 0; i--) {
        const { by, isWrite } = uses[i]
        if (phase.parallel !== undefined && by.parallel === phase.parallel) continue
        if (!isOver(by)) return by
        // All uses before a write were over before it, unless it is one of several at once.
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

/** Phases beyond the next that are looked at for one that need not wait. */
const lookahead = 512
/** Elements of memory that a phase may take earlier than it must; and how much more all may take in the end. */
const earlyElements = 1 << 18
const earlyShare = 0.01

/** Steps with a place for each of their temporaries, in bytes from the first. */
export interface BarrierSchedule {
  readonly steps: readonly Step[]
  readonly offsets: ReadonlyMap<Buffer, number>
  readonly bytes: number
}

/**
 * Phases with few barriers: before one come those from behind it that need not wait, such as the next steps of other
 * matrices' optimizers. They stay as they are where that would take more memory. held: buffers that the caller reads
 * or writes, alive throughout.
 */
export function* scheduleBarriers(
  phases: readonly CallChain[],
  held: readonly Buffer[],
): Pausing<BarrierSchedule> {
  const inOrder = placeTemporaries(yield* placeBarriers(phases, 0), held)
  yield
  const early = placeTemporaries(yield* placeBarriers(phases, lookahead), held)
  return early.bytes <= inOrder.bytes * (1 + earlyShare) ? early : inOrder
}

/** Phases with barriers only where one needs what another since the last barrier did, or overwrites it. */
function* placeBarriers(phases: readonly CallChain[], ahead: number): Pausing<Step[]> {
  const all = phases.map((phase): Waiting => {
    const writes = [...new Set(phase.flatMap(call => call.writes.map(({ allocation }) => allocation)))]
    return {
      phase,
      reads: [...new Set(phase.flatMap(call => call.reads.map(({ allocation }) => allocation)))],
      writes,
      parallel: phase.length === 1 ? phase[0].parallel : undefined,
      takesMemory: writes.some(root => !root.variable && root.size > earlyElements),
      interval: undefined,
      blocker: undefined,
    }
  })
  const conflicts = new Conflicts(all)
  const steps: Step[] = []
  let interval = 0
  const isOver = (other: Waiting) => other.interval !== undefined && other.interval < interval
  /** Whether a phase must wait for some of what is placed since the last barrier, or of what it would pass. */
  const mustWait = (phase: Waiting): boolean => {
    if (!phase.blocker || isOver(phase.blocker)) phase.blocker = conflicts.blockerOf(phase, isOver)
    return phase.blocker !== undefined
  }
  const place = (next: Waiting, barrier: boolean) => {
    next.interval = interval
    steps.push({ phase: next.phase, barrier })
  }
  // Those that wait are the ones from `first` on, but without some of them: after each comes the one at its index here.
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
 * Byte offsets for the temporaries of steps. What is done between two barriers happens at once, so
 * memory is taken over only across one.
 */
function placeTemporaries(steps: readonly Step[], held: readonly Buffer[]): BarrierSchedule {
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
  const lifetimes: Lifetime[] = [...spans].map(([root, span]) => ({ bytes: root.size * 4, ...span }))
  const { addresses, bytes } = planMemory(lifetimes)
  return { steps, offsets: new Map([...spans.keys()].map((root, i) => [root, addresses[i]])), bytes }
}
