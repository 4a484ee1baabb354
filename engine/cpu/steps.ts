import type { Buffer } from '../program.ts'
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

/** Phases with barriers only where one needs what another since the last barrier did, or overwrites it. */
export function placeBarriers(phases: readonly Phase[]): Step[] {
  let read = new Set<Buffer>()
  let written = new Set<Buffer>()
  return phases.map(phase => {
    const reads = phase.flatMap(call => call.reads.map(({ root }) => root))
    const writes = phase.flatMap(call => call.writes.map(({ root }) => root))
    const barrier =
      reads.some(root => written.has(root)) || writes.some(root => written.has(root) || read.has(root))
    if (barrier) [read, written] = [new Set(), new Set()]
    for (const root of reads) read.add(root)
    for (const root of writes) written.add(root)
    return { phase, barrier }
  })
}

/**
 * Byte offsets for the temporaries of steps. What is done between two barriers happens at once, so
 * memory is taken over only across one. held: buffers that the caller reads or writes, alive throughout.
 */
export function placeTemporaries(
  steps: readonly Step[],
  held: readonly Buffer[],
): { offsets: Map<Buffer, number>; bytes: number } {
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
  return { offsets: new Map([...spans.keys()].map((root, i) => [root, addresses[i]])), bytes }
}
