/** How far from float64 a result may be, on the device that the tests run on. */
import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import type { Compiled, Inputs } from '../../engine/index.ts'
import type { Buffer } from '../../engine/compiler/program.ts'
import { gpuPrecision } from './backend.ts'

/** What is compared. Losses, and what is trained, have been through up to twenty updates. */
export type Quantity = 'values' | 'gradients' | 'losses' | 'trained'

/** The largest error of a kind in a process, as it is noted for the summary of "npm run test:gpu". */
export interface NotedError {
  readonly quantity: Quantity
  readonly error: number
  readonly bound: number
}

/**
 * GPUs' exponentials, sines and divisions are less exact than the CPU's, and their sums of another order.
 */
const gpuBound: Readonly<Record<Quantity, number>> = {
  values: 1e-4,
  gradients: 1e-4,
  losses: 1e-3,
  trained: 1e-3,
}

/** The largest relative error of rounding to f16: half of the distance from 1 to the next. */
const unitRoundoff = 2 ** -11

/** Whether products are of f16. */
export const isHalf = gpuPrecision !== undefined && gpuPrecision !== 'f32'

/**
 * What is added to a bound where products are of f16. Each of the two operands of a product is off by at most the unit
 * roundoff u, evenly spread, and so may its result be: a standard deviation of u/√3 for each. A sum of n such products
 * has an error √n times as large, but is √n as large itself where terms are of either sign, and larger where they are
 * not: its length drops out of the relative error. So it has a standard deviation of u, and after d products in a row
 * of u·√d. Four of these are allowed; sums themselves are float32.
 */
const halfBound = (products: number): number => 4 * unitRoundoff * Math.sqrt(products)

/**
 * Asserts that an error, relative to the size of what was expected, is within the device's bound.
 * bound: on the CPU; products: how many products are computed in a row, for f16's bound.
 */
export function expectSmall(
  what: string,
  error: number,
  bound: number,
  quantity: Quantity,
  products = 0,
): void {
  const allowed =
    gpuPrecision === undefined
      ? bound
      : Math.max(bound, gpuBound[quantity]) + (isHalf ? halfBound(products) : 0)
  note({ quantity, error, bound: allowed })
  assert.ok(error <= allowed, `${what} is off by ${error}, of ${allowed} at most`)
}

/**
 * expectSmall of numbers beside those expected: the largest difference, relative to the largest of these or to 1.
 */
export function expectNear(
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: number,
  quantity: Quantity,
  products = 0,
): void {
  const { error, at } = scaledError(actual, expected)
  const which = `${what}: element ${at} is ${actual[at]}, expected ${expected[at]}: it`
  expectSmall(which, error, bound, quantity, products)
}

/**
 * Asserts that numbers are the same to the last bit. On a GPU, whose compiler may round the same operations otherwise
 * in another kernel, they may be off by a few units in the last place.
 */
export function expectSame(what: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (gpuPrecision === undefined) assert.deepEqual(Array.from(actual), Array.from(expected), what)
  else assert.ok(scaledError(actual, expected).error <= 1e-6, what)
}

/** The largest difference, relative to the largest number expected or to 1, and where it is. */
function scaledError(actual: ArrayLike<number>, expected: ArrayLike<number>): { error: number; at: number } {
  assert.equal(actual.length, expected.length)
  let [scale, error, at] = [1, 0, 0]
  for (let i = 0; i < expected.length; i++) scale = Math.max(scale, Math.abs(expected[i]))
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]) / scale
    if (difference <= error) continue
    ;[error, at] = [Number.isNaN(difference) ? Infinity : difference, i]
  }
  return { error, at }
}

/** The largest number of products in a row in a compiled function. */
export async function productsOf<Outputs>(run: Compiled<Outputs>, inputs: Inputs): Promise<number> {
  const { program } = await run.prepare(inputs)
  const behind = new Map<Buffer, number>()
  const own = { rows: 0, scatterAdd: 0, matmul: 1, attention: 2, attentionGradient: 3 }
  for (const { work, reads, writes } of program.instructions) {
    const before = Math.max(0, ...reads.map(({ allocation }) => behind.get(allocation) ?? 0))
    for (const { allocation } of writes)
      behind.set(allocation, Math.max(behind.get(allocation) ?? 0, before + own[work.kind]))
  }
  return Math.max(0, ...behind.values())
}

const largest = new Map<Quantity, NotedError>()

function note(noted: NotedError): void {
  const before = largest.get(noted.quantity)
  if (!before || noted.error > before.error) largest.set(noted.quantity, noted)
}

/** HLB_ERRORS in the environment names the file. */
process.on('exit', () => {
  const file = process.env.HLB_ERRORS
  if (file !== undefined)
    for (const noted of largest.values()) appendFileSync(file, `${JSON.stringify(noted)}\n`)
})
