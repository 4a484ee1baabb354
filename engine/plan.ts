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
  const placed: { start: number; end: number; first: number; last: number }[] = []
  let bytes = 0
  const bySize = lifetimes
    .map((lifetime, index) => ({ ...lifetime, index }))
    .sort((a, b) => b.bytes - a.bytes)
  for (const { index, first, last, bytes: wanted } of bySize) {
    const size = Math.ceil(wanted / alignment) * alignment
    let start = 0
    for (const other of placed) {
      if (other.last < first || other.first > last) continue
      if (other.start >= start + size) break
      start = Math.max(start, other.end)
    }
    addresses[index] = start
    const at = placed.findIndex(other => other.start > start)
    placed.splice(at < 0 ? placed.length : at, 0, { start, end: start + size, first, last })
    bytes = Math.max(bytes, start + size)
  }
  return { addresses, bytes }
}
