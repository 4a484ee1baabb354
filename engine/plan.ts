/** Where in memory things go that are needed for a while only. */

/** Something that needs memory from one step to another, both included. */
export interface Lifetime {
  readonly bytes: number
  readonly first: number
  readonly last: number
}

const alignment = 64

/**
 * Places lifetimes so that no two that overlap share memory: the largest first, each at the lowest
 * address where it fits. Returns their addresses from 0, and how many bytes they span together.
 */
export function planMemory(lifetimes: readonly Lifetime[]): { addresses: number[]; bytes: number } {
  const addresses = new Array<number>(lifetimes.length).fill(0)
  const taken = new TakenMemory(lifetimes.reduce((steps, { last }) => Math.max(steps, last + 1), 1))
  let bytes = 0
  const bySize = lifetimes
    .map((lifetime, index) => ({ ...lifetime, index }))
    .sort((a, b) => b.bytes - a.bytes)
  for (const { index, first, last, bytes: wanted } of bySize) {
    const size = Math.ceil(wanted / alignment) * alignment
    const start = taken.take(first, last, size)
    addresses[index] = start
    bytes = Math.max(bytes, start + size)
  }
  return { addresses, bytes }
}

/**
 * Which addresses are taken at which steps: a segment tree over the steps. What is taken from one step to another is
 * noted at the few nodes that together are these steps. So what is taken at any time in a node's steps is noted below
 * it, which a second list of the node sums up, or at it or above it.
 */
class TakenMemory {
  private readonly leaves: number
  /** What is taken in all steps of a node, where that is not so in all of its parent's. */
  private readonly throughout: (Ranges | undefined)[] = []
  /** All that is noted at a node or below. */
  private readonly within: (Ranges | undefined)[] = []

  constructor(steps: number) {
    this.leaves = 2 ** Math.ceil(Math.log2(steps))
  }

  /** Takes the lowest addresses that are free from one step to another, both included. */
  take(first: number, last: number, size: number): number {
    const { whole, above } = this.nodesOf(first, last)
    const lists = [...whole.map(node => this.within[node]), ...above.map(node => this.throughout[node])]
    const start = lowestFree(
      lists.filter(list => list !== undefined),
      size,
    )
    if (size === 0) return start
    for (const node of whole) (this.throughout[node] ??= new Ranges()).add(start, start + size)
    for (const node of [...whole, ...above]) (this.within[node] ??= new Ranges()).add(start, start + size)
    return start
  }

  /** The largest nodes whose steps are all from first to last, and all nodes above those. The children of n are 2n and 2n + 1. */
  private nodesOf(first: number, last: number): { whole: number[]; above: number[] } {
    const whole: number[] = []
    const above = new Set<number>()
    let [from, to] = [first + this.leaves, last + this.leaves + 1]
    for (; from < to; from >>= 1, to >>= 1) {
      if (from & 1) whole.push(from++)
      if (to & 1) whole.push(--to)
    }
    for (const node of whole)
      for (let parent = node >> 1; parent > 0 && !above.has(parent); parent >>= 1) above.add(parent)
    return { whole, above: [...above] }
  }
}

/** The lowest address from which so many bytes are free in all lists. */
function lowestFree(lists: readonly Ranges[], size: number): number {
  let start = 0
  for (let before = -1; before < start;) {
    before = start
    for (const list of lists) start = list.freeFrom(start, size)
  }
  return start
}

/** Ranges of addresses in ascending order, apart from each other. */
class Ranges {
  private readonly starts: number[] = []
  private readonly ends: number[] = []

  /** The lowest address, from one on, from which so many bytes are in no range. */
  freeFrom(address: number, size: number): number {
    const { starts, ends } = this
    let start = address
    for (let i = firstAbove(ends, address); i < ends.length && starts[i] < start + size; i++) start = ends[i]
    return start
  }

  /** Adds a range; what it overlaps or touches becomes one with it. */
  add(start: number, end: number): void {
    const { starts, ends } = this
    const first = firstAbove(ends, start - 1)
    let after = first
    while (after < starts.length && starts[after] <= end) after++
    if (after > first) {
      starts[first] = Math.min(starts[first], start)
      ends[first] = Math.max(ends[after - 1], end)
      if (after > first + 1) {
        starts.splice(first + 1, after - first - 1)
        ends.splice(first + 1, after - first - 1)
      }
    } else {
      starts.splice(first, 0, start)
      ends.splice(first, 0, end)
    }
  }
}

/** The index of the first of ascending numbers that is more than another. */
function firstAbove(numbers: readonly number[], least: number): number {
  let [from, to] = [0, numbers.length]
  while (from < to) {
    const middle = (from + to) >> 1
    if (numbers[middle] > least) to = middle
    else from = middle + 1
  }
  return from
}
