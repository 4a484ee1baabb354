import type { Buffer, Instruction } from '../program.ts'
import { type Lifetime, planMemory } from '../plan.ts'
import type { Phase } from './lower.ts'

/** A phase, and whether all threads wait for each other before it. */
export interface Step {
  readonly phase: Phase
  readonly barrier: boolean
}

/**
 * About how long one thread takes, as the floating-point operations that it does in that time at 100 GFLOP/s; what
 * it moves, it moves at 20 GB/s.
 */
export const workOf = (steps: readonly Step[]): number =>
  steps.flatMap(({ phase }) => phase).reduce((sum, { flops, bytes }) => sum + flops + 5 * bytes, 0)

/** Memory that some phases read and write. */
class Touched {
  /** With the instruction that it was for, if parts of that were all that did. */
  private readonly read = new Map<Buffer, Instruction | undefined>()
  private readonly written = new Map<Buffer, Instruction | undefined>()

  /** Whether a phase needs what these made, or overwrites what they use. */
  conflicts({ reads, writes, parallel }: Roots): boolean {
    const isOf = (touched: Map<Buffer, Instruction | undefined>) => (root: Buffer) =>
      touched.has(root) && (parallel === undefined || touched.get(root) !== parallel)
    return reads.some(isOf(this.written)) || writes.some(isOf(this.written)) || writes.some(isOf(this.read))
  }

  add({ reads, writes, parallel }: Roots): void {
    const note = (touched: Map<Buffer, Instruction | undefined>) => (root: Buffer) =>
      touched.set(root, touched.has(root) && touched.get(root) !== parallel ? undefined : parallel)
    reads.forEach(note(this.read))
    writes.forEach(note(this.written))
  }
}

/** A phase with the memory that it reads and writes. */
interface Roots {
  readonly phase: Phase
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly parallel: Instruction | undefined
}

/** Phases beyond the next that are looked at for one that need not wait. */
const lookahead = 512
/** Elements of memory that a phase may take earlier than it must; and how much more all may take in the end. */
const earlyElements = 1 << 18
const earlyShare = 0.01

/** Steps with a place for each of their temporaries, in bytes from the first. */
export interface Arrangement {
  readonly steps: readonly Step[]
  readonly offsets: ReadonlyMap<Buffer, number>
  readonly bytes: number
}

/**
 * Phases with few barriers: before one come those from behind it that need not wait, such as the next steps of other
 * matrices' optimizers. They stay as they are where that would take more memory. held: buffers that the caller reads
 * or writes, alive throughout.
 */
export function arrange(phases: readonly Phase[], held: readonly Buffer[]): Arrangement {
  const [inOrder, early] = [0, lookahead].map(ahead => placeTemporaries(placeBarriers(phases, ahead), held))
  return early.bytes <= inOrder.bytes * (1 + earlyShare) ? early : inOrder
}

/** Phases with barriers only where one needs what another since the last barrier did, or overwrites it. */
function placeBarriers(phases: readonly Phase[], ahead: number): Step[] {
  const waiting: Roots[] = phases.map(phase => ({
    phase,
    reads: [...new Set(phase.flatMap(call => call.reads.map(({ root }) => root)))],
    writes: [...new Set(phase.flatMap(call => call.writes.map(({ root }) => root)))],
    parallel: phase.length === 1 ? phase[0].parallel : undefined,
  }))
  const steps: Step[] = []
  let touched = new Touched()
  const place = (next: Roots, barrier: boolean) => {
    touched.add(next)
    steps.push({ phase: next.phase, barrier })
  }
  /** Whether a phase must wait for some of what is placed, or of what it would pass. */
  const mustWait = (other: Roots, passed: Touched) =>
    other.writes.some(root => !root.variable && root.size > earlyElements) ||
    touched.conflicts(other) ||
    passed.conflicts(other)
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const barrier = touched.conflicts(next)
    if (barrier) {
      const passed = new Touched()
      passed.add(next)
      const left = waiting.splice(0, ahead).filter(other => {
        const waits = mustWait(other, passed)
        if (waits) passed.add(other)
        else place(other, false)
        return waits
      })
      waiting.unshift(...left)
      touched = new Touched()
    }
    place(next, barrier)
  }
  return steps
}

/**
 * Byte offsets for the temporaries of steps. What is done between two barriers happens at once, so
 * memory is taken over only across one.
 */
function placeTemporaries(steps: readonly Step[], held: readonly Buffer[]): Arrangement {
  const spans = new Map<Buffer, { first: number; last: number }>()
  let interval = 0
  const use = ({ root }: Buffer, at: number) => {
    if (root.variable) return
    const span = spans.get(root)
    if (span) span.last = Math.max(span.last, at)
    else spans.set(root, { first: at, last: at })
  }
  for (const { phase, barrier } of steps) {
    if (barrier) interval++
    for (const { reads, writes } of phase) for (const buffer of [...reads, ...writes]) use(buffer, interval)
  }
  for (const { root } of held) if (!root.variable) spans.set(root, { first: 0, last: interval })
  const lifetimes: Lifetime[] = [...spans].map(([root, span]) => ({ bytes: root.size * 4, ...span }))
  const { addresses, bytes } = planMemory(lifetimes)
  return { steps, offsets: new Map([...spans.keys()].map((root, i) => [root, addresses[i]])), bytes }
}
