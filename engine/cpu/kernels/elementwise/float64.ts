/** Functions that need float64 on the way to a float32 result: powers, and sines of large angles. */
import type { FunctionBuilder } from '../function-builder.ts'
import { f32x4 as float, f64x2 as double } from '../wat.ts'
import { lanesOf, mul, select } from './arithmetic.ts'

/** The first coefficients of artanh(s) / s as a polynomial in s², highest power first. */
export const artanhSeries = (terms: number): number[] =>
  Array.from({ length: terms }, (_, i) => 1 / (2 * (terms - i) - 1))

const dadd = (a: string, b: string) => `(f64x2.add ${a} ${b})`
const dsub = (a: string, b: string) => `(f64x2.sub ${a} ${b})`
const dmul = (a: string, b: string) => `(f64x2.mul ${a} ${b})`

/** The float64 polynomial with these coefficients, highest power first, at x (a local). */
function doublePolynomial(fma: boolean, x: string, coefficients: readonly number[]): string {
  return coefficients
    .map(double)
    .reduce((value, coefficient) =>
      fma ? `(f64x2.relaxed_madd ${value} ${x} ${coefficient})` : dadd(dmul(value, x), coefficient),
    )
}

/** Applies a function of two float64 lanes (a local) to four float32 lanes; the result is float32. */
export function inDouble(code: FunctionBuilder, x: string, compute: (half: string) => string): string {
  const high = code.let('v128', lanesOf([2, 3, 2, 3], x, x))
  const [low, rest] = [x, high].map(half => {
    const result = compute(code.let('v128', `(f64x2.promote_low_f32x4 ${half})`))
    return code.let('v128', `(f32x4.demote_f64x2_zero ${result})`)
  })
  return code.let('v128', lanesOf([0, 1, 4, 5], low, rest))
}

/**
 * 1/π = 0x0.517cc1b727220a... in parts of 28 bits, each worth 2^-28 of the one before. The product of a float32 and a
 * part is exact in float64, and seven parts are enough for the largest float32.
 */
const partsOfReciprocalPi = [0x517cc1b, 0x727220a, 0x94fe13a, 0xbe8fa9a, 0x6ee06db, 0x14acc9e, 0x21c820f]

/** Replaces two angles x by angles of at most π/2 in size whose sine is that of x + shift · π. */
export function largeAngleHalf(code: FunctionBuilder, x: string, shift: number): string {
  // func() would keep v128.const in registers, for a branch that is hardly ever taken.
  const rare = (value: number) => `(f64x2.splat (f64.const ${value}))`
  // Removing whole turns of 2π from each product is exact, and the sum of the remainders is exact enough.
  const withoutWhole = (turns: string) => dsub(turns, `(f64x2.nearest ${turns})`)
  const turns = partsOfReciprocalPi
    .map((part, i) => withoutWhole(code.let('v128', dmul(x, rare(part * 2 ** (-28 * (i + 1) - 1))))))
    .reduce((sum, turn) => code.let('v128', dadd(sum, turn)))
  const rest = withoutWhole(code.let('v128', dadd(turns, rare(shift / 2))))
  const halfTurns = code.let('v128', dadd(rest, rest))
  const nearest = code.let('v128', `(f64x2.nearest ${halfTurns})`)
  // Half a turn more or less negates the sine.
  const pi = dsub(rare(Math.PI), dmul(`(f64x2.abs ${nearest})`, rare(2 * Math.PI)))
  return dmul(dsub(halfTurns, nearest), pi)
}

/** a to the power of b, which is not 0: 2^(b · log2 |a|) in float64, corrected for the sign of a and special values. */
export function power(code: FunctionBuilder, fma: boolean, a: string, b: string): string {
  const size = code.let('v128', `(f32x4.abs ${a})`)
  const exponent = code.let('v128', `(f64x2.promote_low_f32x4 ${b})`)
  const inside = inDouble(code, size, half => powerHalf(code, fma, half, exponent))
  // A negative power turns 0 into Infinity and Infinity into 0.
  const isInfinite = `(f32x4.eq ${size} ${float(Infinity)})`
  const edge = `(v128.andnot ${float(Infinity)} (v128.xor ${isInfinite} (f32x4.gt ${b} ${float(0)})))`
  const isEdge = code.let('v128', `(v128.or ${isInfinite} (f32x4.eq ${size} ${float(0)}))`)
  const value = code.let('v128', select(isEdge, edge, inside))
  const isWhole = code.let('v128', `(f32x4.eq (f32x4.floor ${b}) ${b})`)
  const half = code.let('v128', mul(b, float(0.5)))
  const isOdd = `(v128.and ${isWhole} (f32x4.ne (f32x4.floor ${half}) ${half}))`
  const signed = `(v128.or ${value} (v128.and ${a} (v128.and ${isOdd} ${float(-0)})))`
  const isUndefined = `(v128.andnot (f32x4.lt ${a} ${float(0)}) (v128.or ${isWhole} ${isEdge}))`
  const defined = code.let('v128', select(isUndefined, float(NaN), signed))
  return select(`(f32x4.eq ${a} ${a})`, defined, a)
}

/** Two of power's results, for positive x: log2 by the series of artanh for the mantissa, and 2^r by that of exp. */
function powerHalf(code: FunctionBuilder, fma: boolean, x: string, exponent: string): string {
  const magic = 6755399441055744 // 1.5 · 2^52: adding it rounds to an integer, and leaves it in the low bits
  const shift = (direction: string, value: string) => `(i64x2.${direction} ${value} (i32.const 52))`
  // The exponent, which is above -1000: 1023 more is positive, and that much of an exponent is 1.
  const bits = `(i64x2.add (i64x2.sub ${x} ${double(Math.SQRT1_2)}) ${double(1)})`
  const e = code.let('v128', shift('shr_u', bits))
  const mantissa = code.let('v128', `(i64x2.add (i64x2.sub ${x} ${shift('shl', e)}) ${double(1)})`)
  const s = `(f64x2.div ${dsub(mantissa, double(1))} ${dadd(mantissa, double(1))})`
  const ratio = code.let('v128', s)
  const squared = code.let('v128', dmul(ratio, ratio))
  const artanh = dmul(ratio, doublePolynomial(fma, squared, artanhSeries(7)))
  const log2 = dmul(artanh, double(2 / Math.LN2))
  const whole = dsub(`(i64x2.add ${e} ${double(magic)})`, double(magic + 1023))
  const product = dmul(exponent, dadd(whole, log2))
  const y = code.let('v128', `(f64x2.pmax (f64x2.pmin ${product} ${double(200)}) ${double(-200)})`)
  const n = code.let('v128', `(f64x2.nearest ${y})`)
  const r = code.let('v128', dmul(dsub(y, n), double(Math.LN2)))
  const grown = doublePolynomial(fma, r, exponentialSeries(9))
  return dmul(grown, shift('shl', dadd(n, double(magic + 1023))))
}

/** The first coefficients of the series of exp, highest power first. */
const exponentialSeries = (terms: number): number[] => {
  const coefficients = [1]
  for (let i = 1; i < terms; i++) coefficients.unshift(coefficients[0] / i)
  return coefficients
}
