/** WAT expressions on four float32 lanes. */

export const add = (a: string, b: string) => `(f32x4.add ${a} ${b})`
export const sub = (a: string, b: string) => `(f32x4.sub ${a} ${b})`
export const mul = (a: string, b: string) => `(f32x4.mul ${a} ${b})`
export const select = (condition: string, yes: string, no: string) =>
  `(v128.bitselect ${yes} ${no} ${condition})`

/** Picks four of the eight 32-bit lanes of two expressions. */
export const lanesOf = (lanes: readonly number[], a: string, b: string): string =>
  `(i8x16.shuffle ${lanes.flatMap(lane => [0, 1, 2, 3].map(byte => 4 * lane + byte)).join(' ')} ${a} ${b})`
