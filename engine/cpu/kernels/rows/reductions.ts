/** Sums and maxima over a row, accumulated in pairs of vectors. */
import { constant } from '../elementwise/operations.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import { elementBytes, lanes, pairBytes, pairSize } from './vectors.ts'

/**
 * Sums over more steps than `plainSteps` are hierarchical, so that their error grows with the logarithm of a row's length
 * instead of the length. Each sum of `sumSteps` steps, or of as many sums of the level below, is added to the level above
 * and starts again from zero.
 */
const plainSteps = 128
const sumSteps = 32

/** How far the columns go, in bytes, before a sum of the lowest level is full. */
export const sumBytes = sumSteps * pairBytes

/** A reduction in progress. Each group of locals has one v128 for each vector of a pair. */
interface Accumulators {
  readonly name: 'sum' | 'max'
  readonly lowest: readonly string[]
  /** The levels above, lowest first, of the sums of long rows. */
  readonly higher: readonly (readonly string[])[]
  /** Which lanes of a maximum have met a NaN. */
  readonly isNaN: readonly string[]
}

export class Reductions {
  private readonly code: FunctionBuilder
  private readonly columns: number
  private readonly accumulators = new Map<number, Accumulators>()

  constructor(code: FunctionBuilder, columns: number) {
    this.code = code
    this.columns = columns
  }

  /** Starts the reduction that computes the value with this index. */
  begin(index: number, name: 'sum' | 'max'): void {
    const lowest = this.locals(name === 'max' ? -Infinity : 0)
    const higher = name === 'sum' ? this.higherLevels() : []
    const isNaN = name === 'max' ? this.locals(0) : []
    this.accumulators.set(index, { name, lowest, higher, isNaN })
  }

  /** Adds a vector (a local) to a reduction. */
  add(index: number, half: number, vector: string): void {
    const { code } = this
    const { name, lowest, isNaN } = this.of(index)
    // f32x4.max would take eight instructions: pmax ignores NaN, and a lane whose bits are all set is a NaN.
    if (name === 'max')
      code.push(
        `(local.set $${isNaN[half]} (v128.or (local.get $${isNaN[half]}) (f32x4.ne ${vector} ${vector})))`,
      )
    code.push(
      `(local.set $${lowest[half]} (f32x4.${name === 'max' ? 'pmax' : 'add'} (local.get $${lowest[half]}) ${vector}))`,
    )
  }

  hasLevels(index: number): boolean {
    return this.of(index).higher.length > 0
  }

  /** Adds a full sum to the level above, and so on while levels are full. done: how far in the row, in bytes. */
  raise(index: number, done: string): void {
    const { code } = this
    const { lowest, higher } = this.of(index)
    const levels = [lowest, ...higher]
    higher.forEach((_, level) => {
      const full = pairBytes * sumSteps ** (level + 1)
      if (level > 0) code.push(`(if (i32.eqz (i32.rem_u ${done} (i32.const ${full}))) (then`)
      this.addLevel(levels[level], levels[level + 1])
      for (const name of levels[level]) code.push(`(local.set $${name} ${constant(0, 'float32')})`)
    })
    code.push(')) '.repeat(Math.max(0, higher.length - 1)))
  }

  /** Reduces the levels and lanes to one float. The revectorizer starts from the neighbouring stores. */
  finish(index: number): string {
    const { code } = this
    const { name, lowest, higher, isNaN } = this.of(index)
    const combine = (a: string, b: string) =>
      name === 'sum' ? `(f32x4.add ${a} ${b})` : `(f32x4.max ${a} ${b})`
    const locals = [lowest, ...higher].reduce((below, level) => {
      this.addLevel(below, level)
      return level
    })
    isNaN.forEach((mark, i) =>
      code.push(`(local.set $${locals[i]} (v128.or (local.get $${locals[i]}) (local.get $${mark})))`),
    )
    locals.forEach((local, i) =>
      code.push(`(v128.store offset=${i * lanes * elementBytes} (local.get $scratch) (local.get $${local}))`),
    )
    const both = code.let(
      'v128',
      combine('(v128.load (local.get $scratch))', `(v128.load offset=16 (local.get $scratch))`),
    )
    const swapped = (value: string, order: readonly number[]) =>
      `(i8x16.shuffle ${order.flatMap(lane => [0, 1, 2, 3].map(byte => lane * elementBytes + byte)).join(' ')} ${value} ${value})`
    const pair = code.let('v128', combine(both, swapped(both, [2, 3, 0, 1])))
    return code.let('f32', `(f32x4.extract_lane 0 ${combine(pair, swapped(pair, [1, 0, 3, 2]))})`)
  }

  private of(index: number): Accumulators {
    const accumulators = this.accumulators.get(index)
    if (!accumulators) throw new Error(`the reduction of value ${index} has not begun`)
    return accumulators
  }

  /** New locals for a pair of vectors, set to a value. */
  private locals(value: number): string[] {
    const { code } = this
    const names = Array.from({ length: pairSize }, () => code.local('v128'))
    for (const name of names) code.push(`(local.set $${name} ${constant(value, 'float32')})`)
    return names
  }

  /** Accumulators, set to zero, for each level above the lowest that the sum of a row needs. */
  private higherLevels(): string[][] {
    const levels: string[][] = []
    const all = this.columns / (pairSize * lanes)
    if (all <= plainSteps) return levels
    for (let steps = all; steps > sumSteps; steps /= sumSteps) levels.push(this.locals(0))
    return levels
  }

  private addLevel(from: readonly string[], to: readonly string[]): void {
    to.forEach((name, i) =>
      this.code.push(`(local.set $${name} (f32x4.add (local.get $${name}) (local.get $${from[i]})))`),
    )
  }
}
