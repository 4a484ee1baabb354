/** Assigns addresses to temporaries, so that those which are never in use at the same time share memory. */
import { Timeline } from './timeline.ts'

/** Memory that is in use from step `first` to step `last`, both included. */
export interface Lifetime {
  readonly bytes: number
  readonly first: number
  readonly last: number
}

const alignment = 64

/**
 * Gives each lifetime an address so that those which overlap share no memory: the largest first, each at the lowest
 * address where it fits. Returns the addresses, from 0, and the bytes that all take together.
 */
export function planMemory(lifetimes: readonly Lifetime[]): { addresses: number[]; bytes: number } {
  const addresses = new Array<number>(lifetimes.length).fill(0)
  const steps = lifetimes.reduce((steps, { last }) => Math.max(steps, last + 1), 1)
  const taken = new Timeline(steps, () => new Ranges())
  let bytes = 0
  const bySize = lifetimes
    .map((lifetime, index) => ({ ...lifetime, index }))
    .sort((a, b) => b.bytes - a.bytes)
  for (const { index, first, last, bytes: wanted } of bySize) {
    const size = Math.ceil(wanted / alignment) * alignment
    const start = lowestFree(taken.notes(first, last), size)
    if (size > 0) taken.add(first, last, ranges => ranges.add(start, start + size))
    addresses[index] = start
    bytes = Math.max(bytes, start + size)
  }
  return { addresses, bytes }
}

/** The lowest address from which `size` bytes are free in all lists. */
function lowestFree(lists: readonly Ranges[], size: number): number {
  let start = 0
  for (let before = -1; before < start;) {
    before = start
    for (const list of lists) start = list.freeFrom(start, size)
  }
  return start
}

/** Disjoint ranges of addresses, in ascending order. */
class Ranges {
  private readonly starts: number[] = []
  private readonly ends: number[] = []

  /** The lowest address, at `address` or above, from which `size` bytes are free. */
  freeFrom(address: number, size: number): number {
    const { starts, ends } = this
    let start = address
    for (let i = firstAbove(ends, address); i < ends.length && starts[i] < start + size; i++) start = ends[i]
    return start
  }

  /** Adds a range, and merges it with those that it overlaps or touches. */
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

/** The index of the first of ascending numbers that is larger than `least`. */
function firstAbove(numbers: readonly number[], least: number): number {
  let [from, to] = [0, numbers.length]
  while (from < to) {
    const middle = (from + to) >> 1
    if (numbers[middle] > least) to = middle
    else from = middle + 1
  }
  return from
}
