/** exp and log on four float32 lanes. Reductions and polynomials are from Cephes (S. Moshier), expf.c and logf.c. */
import { f32x4, i32x4, multiplyAdd } from './wat.ts'

/** 1.5 * 2^23. Adding it rounds a float32 to an integer and leaves that in the low bits. */
const magic = 12582912

/**
 * Statements that replace the v128 local `x` by e to the power of x, on four lanes, with a relative error of about 1e-7.
 * Infinities, subnormal results and NaN follow IEEE 754. `t` is a v128 temporary.
 * V8 can join two of these for neighbouring vectors into one 256-bit computation. In a loop, use it in the body of func,
 * which hoists its constants.
 */
export function exp(fma: boolean, x: string, t: string): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  // 2^n is the product of two powers of two of similar size, which are normal numbers for all n. Multiplying by the second
  // overflows, or rounds to subnormal numbers, as it should. 254 is twice the bias of a float's exponent, so half of
  // n + 254 is the biased exponent of the first factor, and the rest is that of the second.
  const exponents = `(i32x4.shl ${n} (i32.const 23))`
  const first = `(v128.and (i32x4.shr_u ${exponents} (i32.const 1)) ${i32x4(0x7f800000)})`
  return `
    (local.set $${x} (f32x4.pmax (f32x4.pmin ${r} ${f32x4(89)}) ${f32x4(-104)}))
    ${reducedExp(fma, x, t, magic + 254)}
    (local.set $${x} ${horner(fma, expPolynomial, r)})
    (local.set $${x} (f32x4.mul ${r} ${first}))
    (local.set $${x} (f32x4.mul ${r} (i32x4.sub ${exponents} ${first})))`
}

/**
 * exp for where tiny results do not matter. Results that would round to less than 2^`least`, which is at least -126,
 * are 0, which avoids slow subnormal numbers. Arguments above 88.37 count as 88.37. It takes two operations fewer than exp.
 */
export function expOrZero(fma: boolean, x: string, t: string, least: number): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  return `
    (local.set $${x} (f32x4.pmin ${r} ${f32x4(88.37)}))
    ${reducedExp(fma, x, t, magic)}
    (local.set $${x} (v128.andnot
      (i32x4.add (i32x4.shl ${n} (i32.const 23)) ${horner(fma, expPolynomial, r)})
      (f32x4.lt ${n} ${f32x4(magic + least)})))`
}

/** Leaves n + `offset` in `t` and r in `x`, where exp(x) = 2^n * exp(r). */
function reducedExp(fma: boolean, x: string, t: string, offset: number): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  const rounded = `(f32x4.sub ${n} ${f32x4(offset)})`
  return `
    (local.set $${t} ${multiplyAdd(fma, r, f32x4(Math.LOG2E), f32x4(offset))})
    (local.set $${x} ${multiplyAdd(fma, rounded, f32x4(-0.693359375), r)})
    (local.set $${x} ${multiplyAdd(fma, rounded, f32x4(2.1219444e-4), r)})`
}

const expPolynomial = [
  1.9875691e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5, 1, 1,
]

/**
 * Statements that replace the v128 local `x` by its natural logarithm, on four lanes, with a relative error of about 1e-7,
 * for normal positive numbers (NaN for NaN and infinity). `t` and `u` are v128 temporaries.
 * It reduces x to m * 2^e, with m between sqrt(1/2) and sqrt(2).
 */
export function log(fma: boolean, x: string, t: string, u: string): string {
  const [value, e, f] = [`(local.get $${x})`, `(local.get $${t})`, `(local.get $${u})`]
  const bits = i32x4(0x3f3504f3) // sqrt(1/2)
  const polynomial = [
    7.0376836292e-2, -0.1151461031, 0.1167699874, -0.12420140846, 0.14249322787, -0.16668057665,
    0.20000714765, -0.24999993993, 0.33333331174, -0.5,
  ]
  return `
    (local.set $${t} (i32x4.shr_s (i32x4.sub ${value} ${bits})
      (i32.const 23)))
    (local.set $${u} (f32x4.sub (i32x4.sub ${value} (i32x4.shl ${e} (i32.const 23))) ${f32x4(1)}))
    (local.set $${t} (f32x4.convert_i32x4_s ${e}))
    (local.set $${x} (f32x4.sub ${value} ${value}))
    (local.set $${x} (f32x4.add ${value} ${multiplyAdd(
      fma,
      e,
      f32x4(-2.1219444e-4),
      `(f32x4.mul (f32x4.mul ${f} ${f}) ${horner(fma, polynomial, f)})`,
    )}))
    (local.set $${x} ${multiplyAdd(fma, e, f32x4(0.693359375), `(f32x4.add ${f} ${value})`)})`
}

/** The polynomial with these coefficients, highest power first, at a v128 expression x (repeated in each term). */
function horner(fma: boolean, coefficients: readonly number[], x: string): string {
  return coefficients.map(f32x4).reduce((sum, term) => multiplyAdd(fma, sum, x, term))
}
