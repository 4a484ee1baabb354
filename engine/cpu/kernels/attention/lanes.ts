/** Loops over rows of scores by 8 lanes: loads, stores, and sums across lanes. */
import { add, f32x4, mul, repeat } from '../wat.ts'

/** The text for each half of 8 lanes. V8 joins the two into 256-bit operations. */
export function both(text: (half: number) => string): string {
  return repeat(2, text)
}

/** Loads and stores of pairs of v128 locals x0 and x1 at an address plus $j. */
export const pairs = {
  load: (local: string, address: string) =>
    both(h => `(local.set $${local}${h} (v128.load offset=${16 * h} align=4 ${add(address, 'j')}))`),
  store: (local: string, address: string) =>
    both(h => `(v128.store offset=${16 * h} align=4 ${add(address, 'j')} (local.get $${local}${h}))`),
}

/** Stores `value` in the `count` floats (a multiple of 4) after the row's $keys scores at $line. */
export function fillAfter(line: string, count: number, value: number): string {
  return repeat(
    count / 4,
    v => `(v128.store offset=${16 * v} align=4 ${add(line, mul('keys', 4))} ${f32x4(value)})`,
  )
}

/** Reduces the lanes of a v128 local, and leaves the result in all of them. */
function acrossLanes(operation: 'f32x4.add' | 'f32x4.pmax', local: string): string {
  const x = `(local.get $${local})`
  const shuffled = (lanes: string) => `(i8x16.shuffle ${lanes} ${x} ${x})`
  return `
      (local.set $${local} (${operation} ${x} ${shuffled('8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7')}))
      (local.set $${local} (${operation} ${x} ${shuffled('4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11')}))`
}

/**
 * Reduces two v128 accumulators across all their lanes, into the first. They pass through memory at $lanes, since V8
 * looks for operations to join beginning with pairs of stores.
 */
export function acrossPair(operation: 'f32x4.add' | 'f32x4.pmax', first: string, second: string): string {
  return `
      (v128.store (local.get $lanes) (local.get $${first}))
      (v128.store offset=16 (local.get $lanes) (local.get $${second}))
      (local.set $${first} (${operation}
        (v128.load (local.get $lanes)) (v128.load offset=16 (local.get $lanes))))
      ${acrossLanes(operation, first)}`
}

/** Adds a sum to a total, and resets it to zero. */
export const addToTotal = (sum: string, total: string): string => `
        (local.set $${total} (f32x4.add (local.get $${total}) (local.get $${sum})))
        (local.set $${sum} ${f32x4(0)})`
