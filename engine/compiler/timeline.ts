/** A segment tree over the steps of a program: what is in use at which steps. */

/**
 * Notes of what is in use during intervals of steps. An interval is split into a few nodes of the tree, and noted at
 * each of them. A query looks at the nodes of its own interval: at what is noted there and below, which each node keeps
 * in a second note, and at what is noted above.
 */
export class Timeline<Note> {
  private readonly leaves: number
  private readonly make: () => Note
  /** For each node, the intervals that were split into it and others. */
  private readonly throughout: (Note | undefined)[] = []
  /** For each node, the intervals noted at it or below. */
  private readonly within: (Note | undefined)[] = []

  /** make: an empty note. */
  constructor(steps: number, make: () => Note) {
    this.leaves = 2 ** Math.ceil(Math.log2(Math.max(1, steps)))
    this.make = make
  }

  /** Notes that together cover what is in use at any step from first to last, both included. */
  notes(first: number, last: number): Note[] {
    const { whole, above } = this.nodes(first, last)
    const notes = [...whole.map(node => this.within[node]), ...above.map(node => this.throughout[node])]
    return notes.filter(note => note !== undefined)
  }

  /** Adds an interval: calls addTo with each note that has to hold it. */
  add(first: number, last: number, addTo: (note: Note) => void): void {
    const { whole, above } = this.nodes(first, last)
    for (const node of whole) addTo((this.throughout[node] ??= this.make()))
    for (const node of [...whole, ...above]) addTo((this.within[node] ??= this.make()))
  }

  /** The largest nodes within an interval, and all nodes above them. The children of n are 2n and 2n + 1. */
  private nodes(first: number, last: number): { whole: number[]; above: number[] } {
    const whole: number[] = []
    let [from, to] = [first + this.leaves, last + this.leaves + 1]
    for (; from < to; from >>= 1, to >>= 1) {
      if (from & 1) whole.push(from++)
      if (to & 1) whole.push(--to)
    }
    const above = new Set<number>()
    for (const node of whole)
      for (let parent = node >> 1; parent > 0 && !above.has(parent); parent >>= 1) above.add(parent)
    return { whole, above: [...above] }
  }
}
