/** What is in use from one step to another, step by step. */

/**
 * A segment tree over steps, whose nodes hold notes. What is in use from one step to another is noted at the few nodes
 * that together are these steps. All that is in use at any of some steps is then noted below the nodes of these, which a
 * second note of each node sums up, or at them or above them.
 */
export class Timeline<Note> {
  private readonly leaves: number
  private readonly make: () => Note
  /** What is in use in all steps of a node, where that is not so in all of its parent's. */
  private readonly throughout: (Note | undefined)[] = []
  /** All that is noted at a node or below. */
  private readonly within: (Note | undefined)[] = []

  /** make: an empty note. */
  constructor(steps: number, make: () => Note) {
    this.leaves = 2 ** Math.ceil(Math.log2(Math.max(1, steps)))
    this.make = make
  }

  /** Notes that together have what is in use at any time from one step to another, both included. */
  notes(first: number, last: number): Note[] {
    const { whole, above } = this.nodes(first, last)
    const notes = [...whole.map(node => this.within[node]), ...above.map(node => this.throughout[node])]
    return notes.filter(note => note !== undefined)
  }

  /** Adds to all notes that are to have what is in use from one step to another. */
  add(first: number, last: number, addTo: (note: Note) => void): void {
    const { whole, above } = this.nodes(first, last)
    for (const node of whole) addTo((this.throughout[node] ??= this.make()))
    for (const node of [...whole, ...above]) addTo((this.within[node] ??= this.make()))
  }

  /** The largest nodes whose steps are all from first to last, and all nodes above those. The children of n are 2n and 2n + 1. */
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
