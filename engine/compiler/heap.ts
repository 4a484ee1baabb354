/** A binary heap: a priority queue. */
export class Heap<T> {
  private readonly items: T[] = []
  private readonly isBefore: (a: T, b: T) => boolean

  /** isBefore: whether the first item comes out before the second. It has to be a strict order. */
  constructor(isBefore: (a: T, b: T) => boolean) {
    this.isBefore = isBefore
  }

  /** The item that pop() would return. */
  get first(): T | undefined {
    return this.items[0]
  }

  push(item: T): void {
    const { items } = this
    let place = items.length
    items.push(item)
    while (place > 0) {
      const parent = (place - 1) >> 1
      if (!this.isBefore(item, items[parent])) break
      items[place] = items[parent]
      place = parent
    }
    items[place] = item
  }

  /** Removes and returns the first item. */
  pop(): T | undefined {
    const { items } = this
    const first = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return first
    let place = 0
    for (let child = 1; child < items.length; child = 2 * place + 1) {
      if (child + 1 < items.length && this.isBefore(items[child + 1], items[child])) child++
      if (!this.isBefore(items[child], last)) break
      items[place] = items[child]
      place = child
    }
    items[place] = last
    return first
  }

  clear(): void {
    this.items.length = 0
  }
}
