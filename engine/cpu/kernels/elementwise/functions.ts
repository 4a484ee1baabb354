/** Float32 functions on four lanes, with or without fused multiply-add: exponentials, logarithms, tanh, erf and sines. */
import { exp, log } from '../exp-log.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import { f32x4 as float } from '../wat.ts'
import { add, mul, select, sub } from './arithmetic.ts'
import { artanhSeries, inDouble, largeAngleHalf } from './float64.ts'

/** The largest angle from which subtracting a multiple of π in three float32 parts is exact enough. */
const largeAngle = 1024

/** Writes functions of x. An x is always a local, which may be read many times. */
export class FloatFunctions {
  private readonly fma: boolean

  constructor(fma: boolean) {
    this.fma = fma
  }

  /** a · b + c */
  private multiplyAdd(a: string, b: string, c: string): string {
    return this.fma ? `(f32x4.relaxed_madd ${a} ${b} ${c})` : add(mul(a, b), c)
  }

  /** The polynomial with these coefficients, highest power first, at x (a local). */
  private polynomial(x: string, coefficients: readonly number[]): string {
    const [first, ...rest] = coefficients
    return rest.reduce((value, coefficient) => this.multiplyAdd(value, x, float(coefficient)), float(first))
  }

  /** e to the power of x. */
  exp(code: FunctionBuilder, x: string): string {
    const [value, work] = [code.local('v128'), code.local('v128')]
    code.push(`(local.set $${value} ${x})`, exp(this.fma, value, work))
    return `(local.get $${value})`
  }

  /** The natural logarithm: -Infinity for zero, NaN for negative numbers. Scales subnormal numbers to normal ones first. */
  log(code: FunctionBuilder, x: string): string {
    const [value, first, second] = [code.local('v128'), code.local('v128'), code.local('v128')]
    const isSubnormal = code.let('v128', `(f32x4.lt ${x} ${float(2 ** -126)})`)
    code.push(
      `(local.set $${value} ${select(isSubnormal, mul(x, float(2 ** 23)), x)})`,
      log(this.fma, value, first, second),
      `(local.set $${value} ${sub(`(local.get $${value})`, `(v128.and ${isSubnormal} ${float(23 * Math.LN2)})`)})`,
    )
    const special = select(`(f32x4.eq ${x} ${float(0)})`, float(-Infinity), float(NaN))
    const positive = select(`(f32x4.gt ${x} ${float(0)})`, `(local.get $${value})`, special)
    return select(`(f32x4.eq ${x} ${float(Infinity)})`, x, positive)
  }

  /**
   * log(1 + x). Where |x| < ½, the series of 2 · artanh(s) with 2s = x / (1 + x/2), elsewhere the logarithm of 1 + x.
   */
  log1p(code: FunctionBuilder, x: string): string {
    const twice = code.let('v128', `(f32x4.div ${x} ${add(mul(x, float(0.5)), float(1))})`)
    const squared = code.let('v128', mul(mul(twice, twice), float(0.25)))
    const near = code.let('v128', mul(twice, this.polynomial(squared, artanhSeries(8))))
    const far = this.log(code, code.let('v128', add(x, float(1))))
    return select(`(f32x4.lt (f32x4.abs ${x}) ${float(0.5)})`, near, far)
  }

  /** tanh(x): Cephes' polynomial near zero, elsewhere 1 − 2 / (exp(2x) + 1). */
  tanh(code: FunctionBuilder, x: string): string {
    const squared = code.let('v128', mul(x, x))
    const p = this.polynomial(
      squared,
      [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
    )
    const near = code.let('v128', mul(this.multiplyAdd(p, squared, float(1)), x))
    const grown = code.let('v128', this.exp(code, code.let('v128', add(x, x))))
    const far = sub(float(1), `(f32x4.div ${float(2)} ${add(grown, float(1))})`)
    return select(`(f32x4.lt (f32x4.abs ${x}) ${float(0.625)})`, near, far)
  }

  /** erf(x): x · p(x²) / q(x²) on [−4, 4], with Eigen's coefficients. Outside, it is ±1 in float32. */
  erf(code: FunctionBuilder, value: string): string {
    // pmin and pmax are one instruction each, min and max eight. In this order they keep NaN.
    const x = code.let('v128', `(f32x4.pmax (f32x4.pmin ${value} ${float(4)}) ${float(-4)})`)
    const squared = code.let('v128', mul(x, x))
    const p = this.polynomial(
      squared,
      [
        -2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6, -5.69250639462346e-5,
        -7.34990630326855e-4, -2.95459980854025e-3, -1.60960333262415e-2,
      ],
    )
    const q = this.polynomial(
      squared,
      [
        -1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3, -7.37332916720468e-3,
        -1.42647390514189e-2,
      ],
    )
    return mul(x, `(f32x4.div ${p} ${q})`)
  }

  /**
   * The sines or cosines of neighbouring vectors: sin(x + shift·π) with a shift of 0 or ½. The nearest multiple of π is
   * subtracted in three parts, or in float64 where an angle is large. The vectors share that branch, which ends with a
   * store and a load for each, so that the revectorizer can join what follows.
   */
  sines(code: FunctionBuilder, name: 'sin' | 'cos', xs: readonly string[]): string[] {
    const shift = name === 'sin' ? 0 : 0.5
    // Adding 1.5 · 2^23 rounds to an integer, and leaves it in the low bits.
    const magic = float(12582912)
    const rests = xs.map(x => {
      const turns = shift ? this.multiplyAdd(x, float(1 / Math.PI), float(shift)) : mul(x, float(1 / Math.PI))
      const shifted = code.let('v128', add(turns, magic))
      const n = sub(shifted, magic)
      const multiple = code.let('v128', shift ? sub(n, float(shift)) : n)
      let r = x
      for (const part of [-3.140625, -9.675025939941406e-4, -1.5099579909783765e-7])
        r = code.let('v128', this.multiplyAdd(multiple, float(part), r))
      // An odd multiple of π negates the sine.
      const rest = code.local('v128')
      code.push(`(local.set $${rest} (v128.xor ${r} (i32x4.shl ${shifted} (i32.const 31))))`)
      return rest
    })
    const sizes = xs.map(x => `(f32x4.abs ${x})`)
    // Compared as integers: NaN is larger than any angle there, and hides no other lane.
    const largest = sizes.reduce((a, b) => `(i32x4.max_s ${a} ${b})`)
    code.push(`(if (v128.any_true (i32x4.gt_s ${largest} ${float(largeAngle)})) (then`)
    // Through memory, since the revectorizer joins loads.
    const exact = xs.map((x, i) => {
      const large = inDouble(code, x, half => largeAngleHalf(code, half, shift))
      return code.let(
        'v128',
        select(`(f32x4.gt ${sizes[i]} ${float(largeAngle)})`, large, `(local.get $${rests[i]})`),
      )
    })
    exact.forEach((value, i) => code.push(`(v128.store offset=${16 * i} (local.get $scratch) ${value})`))
    rests.forEach((rest, i) =>
      code.push(`(local.set $${rest} (v128.load offset=${16 * i} (local.get $scratch)))`),
    )
    code.push('))')
    return rests.map(rest => {
      const r = `(local.get $${rest})`
      const squared = code.let('v128', mul(r, r))
      const p = this.polynomial(
        squared,
        [-2.3889859e-8, 2.7525562e-6, -1.9840874e-4, 8.333331e-3, -1.6666667e-1],
      )
      return mul(this.multiplyAdd(p, squared, float(1)), r)
    })
  }
}
