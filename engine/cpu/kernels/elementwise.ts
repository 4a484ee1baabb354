import type { BinaryName, DType, UnaryName } from '../../graph/operations.ts'
import { exp, f32x4 as float, f64x2 as double, func, i32x4 as int, log } from './wat.ts'

/** The body of a function in the making: locals and lines of WAT. */
export class Code {
  readonly lines: string[] = []
  private readonly locals: string[] = []

  /** A new local of this type; returns its name without the $. */
  local(type: 'i32' | 'f32' | 'v128'): string {
    const name = `t${this.locals.length}`
    this.locals.push(`(local $${name} ${type})`)
    return name
  }

  /** Computes an expression once; returns the expression that reads it. */
  let(type: 'i32' | 'f32' | 'v128', expression: string): string {
    const name = this.local(type)
    this.lines.push(`(local.set $${name} ${expression})`)
    return `(local.get $${name})`
  }

  push(...lines: string[]): void {
    this.lines.push(...lines)
  }

  /** A function of this name with the kernels' parameters. */
  kernel(name: string): string {
    const header = `(param $arguments i32) (param $item i32) (param $scratch i32) ${this.locals.join(' ')}`
    return func(name, header, this.lines.join('\n'))
  }
}

/** A v128 constant of four equal lanes; what is true has all bits set, as comparisons make it. */
export function constant(value: number, dtype: DType): string {
  if (dtype === 'float32') return float(value)
  return int(dtype === 'bool' ? -Number(value !== 0) : value)
}

const add = (a: string, b: string) => `(f32x4.add ${a} ${b})`
const sub = (a: string, b: string) => `(f32x4.sub ${a} ${b})`
const mul = (a: string, b: string) => `(f32x4.mul ${a} ${b})`
const select = (condition: string, yes: string, no: string) => `(v128.bitselect ${yes} ${no} ${condition})`

/** The largest angle of which sine() takes off multiples of π in three parts. */
const largeAngle = 1024

/**
 * 1/π = 0x0.517cc1b727220a... in parts of 28 bits, each counting 2^-28 of the one before. A float32 times one of them is
 * exact in float64, and seven are enough for the largest float32.
 */
const partsOfReciprocalPi = [0x517cc1b, 0x727220a, 0x94fe13a, 0xbe8fa9a, 0x6ee06db, 0x14acc9e, 0x21c820f]

/** WAT of elementwise operations on four lanes, with or without fused multiply-add. */
export class Elementwise {
  private readonly fma: boolean

  constructor(fma: boolean) {
    this.fma = fma
  }

  /** a · b + c */
  multiplyAdd(a: string, b: string, c: string): string {
    return this.fma ? `(f32x4.relaxed_madd ${a} ${b} ${c})` : add(mul(a, b), c)
  }

  /** The polynomial with these coefficients, highest power first, at x (a local). */
  private polynomial(x: string, coefficients: readonly number[]): string {
    const [first, ...rest] = coefficients
    return rest.reduce((value, coefficient) => this.multiplyAdd(value, x, float(coefficient)), float(first))
  }

  /** x and dtype: the operand, a local that may be read many times. */
  unary(code: Code, name: UnaryName, x: string, dtype: DType): string {
    switch (name) {
      case 'detach':
        return x
      case 'negate':
        return dtype === 'int32' ? `(i32x4.neg ${x})` : `(f32x4.neg ${x})`
      case 'abs':
        return `(f32x4.abs ${x})`
      case 'sqrt':
        return `(f32x4.sqrt ${x})`
      case 'floor':
        return `(f32x4.floor ${x})`
      case 'reciprocal':
        return `(f32x4.div ${float(1)} ${x})`
      case 'toFloat':
        return dtype === 'bool' ? `(v128.and ${x} ${float(1)})` : `(f32x4.convert_i32x4_s ${x})`
      case 'toInt':
        return dtype === 'bool' ? `(v128.and ${x} ${int(1)})` : `(i32x4.trunc_sat_f32x4_s ${x})`
      case 'bitsToUniform':
        return mul(`(f32x4.convert_i32x4_s (i32x4.shr_u ${x} (i32.const 8)))`, float(2 ** -24))
      case 'exp':
        return this.exp(code, x)
      case 'log':
        return this.log(code, x)
      case 'log1p':
        return this.log1p(code, x)
      case 'tanh':
        return this.tanh(code, x)
      case 'erf':
        return this.erf(code, x)
      case 'sin':
      case 'cos':
        return this.sines(code, name, [x])[0]
      default:
        return name satisfies never
    }
  }

  binary(code: Code, name: BinaryName, a: string, b: string, dtype: DType): string {
    const lanes = dtype === 'float32' ? 'f32x4' : 'i32x4'
    const signed = dtype === 'float32' ? '' : '_s'
    switch (name) {
      case 'add':
        return `(${lanes}.add ${a} ${b})`
      case 'subtract':
        return `(${lanes}.sub ${a} ${b})`
      case 'multiply':
        return `(${lanes}.mul ${a} ${b})`
      case 'divide':
        return `(f32x4.div ${a} ${b})`
      case 'maximum':
        return `(${lanes}.max${signed} ${a} ${b})`
      case 'minimum':
        return `(${lanes}.min${signed} ${a} ${b})`
      case 'equal':
        return `(${lanes}.eq ${a} ${b})`
      case 'less':
        return `(${lanes}.lt${signed} ${a} ${b})`
      case 'lessEqual':
        return `(${lanes}.le${signed} ${a} ${b})`
      case 'and':
        return `(v128.and ${a} ${b})`
      case 'xor':
        return `(v128.xor ${a} ${b})`
      case 'randomBits':
        return this.randomBits(code, a, b)
      case 'power':
        return power(code, this.fma, a, b)
      default:
        return name satisfies never
    }
  }

  private exp(code: Code, x: string): string {
    const [value, work] = [code.local('v128'), code.local('v128')]
    code.push(`(local.set $${value} ${x})`, exp(this.fma, value, work))
    return `(local.get $${value})`
  }

  /** Zero gives -Infinity, what is below NaN. Subnormal numbers are scaled to normal ones before. */
  private log(code: Code, x: string): string {
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
   * log(1 + x): below ½ in size 2 · artanh(s) for 2s = x / (1 + x/2), by its series, and beyond the logarithm of 1 + x.
   */
  private log1p(code: Code, x: string): string {
    const twice = code.let('v128', `(f32x4.div ${x} ${add(mul(x, float(0.5)), float(1))})`)
    const squared = code.let('v128', mul(mul(twice, twice), float(0.25)))
    const near = code.let('v128', mul(twice, this.polynomial(squared, artanhSeries(8))))
    const far = this.log(code, code.let('v128', add(x, float(1))))
    return select(`(f32x4.lt (f32x4.abs ${x}) ${float(0.5)})`, near, far)
  }

  /** tanh(x): Cephes' polynomial near zero, 1 − 2 / (exp(2x) + 1) beyond. */
  private tanh(code: Code, x: string): string {
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

  /** erf(x): x · p(x²) / q(x²) on [−4, 4], beyond which it is ±1 in float32; the fit is Eigen's. */
  private erf(code: Code, value: string): string {
    // pmin and pmax are one instruction where min and max are eight, and leave NaN as it is in this order.
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
   * The sines or cosines of neighbouring vectors, locals: sin(x + shift·π) for a shift of 0 or ½. The nearest multiple
   * of π is taken off in three parts, or where an angle is large, in float64. They are computed together, with that
   * branch left by one store and load for each: what follows are neighbours that the revectorizer can join.
   */
  sines(code: Code, name: 'sin' | 'cos', xs: readonly string[]): string[] {
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
      // The sine of an odd multiple more is the negative.
      const rest = code.local('v128')
      code.push(`(local.set $${rest} (v128.xor ${r} (i32x4.shl ${shifted} (i32.const 31))))`)
      return rest
    })
    const sizes = xs.map(x => `(f32x4.abs ${x})`)
    // Compared as integers, of which NaN is among the largest and keeps no other lane from being seen.
    const largest = sizes.reduce((a, b) => `(i32x4.max_s ${a} ${b})`)
    code.push(`(if (v128.any_true (i32x4.gt_s ${largest} ${float(largeAngle)})) (then`)
    // By way of memory, since the revectorizer joins loads.
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

  /** Two rounds of a 32-bit finalizer (Wellons' lowbias32), the key going into each. */
  private randomBits(code: Code, counter: string, key: string): string {
    const shifted = (value: string, bits: number) =>
      `(v128.xor ${value} (i32x4.shr_u ${value} (i32.const ${bits})))`
    const mix = (value: string): string => {
      const first = code.let('v128', `(i32x4.mul ${shifted(value, 16)} ${int(0x21f0aaad)})`)
      const second = code.let('v128', `(i32x4.mul ${shifted(first, 15)} ${int(0x735a2d97)})`)
      return code.let('v128', shifted(second, 15))
    }
    const once = mix(code.let('v128', `(i32x4.add ${counter} (i32x4.mul ${key} ${int(0x9e3779b9 | 0)}))`))
    return mix(code.let('v128', `(v128.xor ${once} ${key})`))
  }
}

/** The coefficients of artanh(s) / s in powers of s², so many of them, highest first. */
const artanhSeries = (terms: number): number[] =>
  Array.from({ length: terms }, (_, i) => 1 / (2 * (terms - i) - 1))

const dadd = (a: string, b: string) => `(f64x2.add ${a} ${b})`
const dsub = (a: string, b: string) => `(f64x2.sub ${a} ${b})`
const dmul = (a: string, b: string) => `(f64x2.mul ${a} ${b})`

/** The polynomial with these coefficients, highest power first, of a local in float64. */
function doublePolynomial(fma: boolean, x: string, coefficients: readonly number[]): string {
  return coefficients
    .map(double)
    .reduce((value, coefficient) =>
      fma ? `(f64x2.relaxed_madd ${value} ${x} ${coefficient})` : dadd(dmul(value, x), coefficient),
    )
}

/** What a function of two float64 lanes, a local, makes of four float32 lanes, in float32. */
function inDouble(code: Code, x: string, compute: (half: string) => string): string {
  const high = code.let('v128', lanesOf([2, 3, 2, 3], x, x))
  const [low, rest] = [x, high].map(half => {
    const result = compute(code.let('v128', `(f64x2.promote_low_f32x4 ${half})`))
    return code.let('v128', `(f32x4.demote_f64x2_zero ${result})`)
  })
  return code.let('v128', lanesOf([0, 1, 4, 5], low, rest))
}

/** For two angles x, angles of at most π/2 in size with the sine of x + shift · π. */
function largeAngleHalf(code: Code, x: string, shift: number): string {
  // Not constants that func() would keep in registers for a branch that is hardly ever taken.
  const rare = (value: number) => `(f64x2.splat (f64.const ${value}))`
  // Whole turns of 2π are dropped from each product, exactly, and the sum of what is left is exact enough.
  const withoutWhole = (turns: string) => dsub(turns, `(f64x2.nearest ${turns})`)
  const turns = partsOfReciprocalPi
    .map((part, i) => withoutWhole(code.let('v128', dmul(x, rare(part * 2 ** (-28 * (i + 1) - 1))))))
    .reduce((sum, turn) => code.let('v128', dadd(sum, turn)))
  const rest = withoutWhole(code.let('v128', dadd(turns, rare(shift / 2))))
  const halfTurns = code.let('v128', dadd(rest, rest))
  const nearest = code.let('v128', `(f64x2.nearest ${halfTurns})`)
  // The sine of half a turn more or less is the negative.
  const pi = dsub(rare(Math.PI), dmul(`(f64x2.abs ${nearest})`, rare(2 * Math.PI)))
  return dmul(dsub(halfTurns, nearest), pi)
}

/** a to the power of b, which is not 0: 2^(b · log2 |a|) in float64, and then what a's sign and the edges make of it. */
function power(code: Code, fma: boolean, a: string, b: string): string {
  const size = code.let('v128', `(f32x4.abs ${a})`)
  const exponent = code.let('v128', `(f64x2.promote_low_f32x4 ${b})`)
  const inside = inDouble(code, size, half => powerHalf(code, fma, half, exponent))
  // 0 and Infinity become each other where the power is negative.
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

/** Two of power's results for positive x. log2 by artanh's series for the mantissa, and 2^r by that of exp. */
function powerHalf(code: Code, fma: boolean, x: string, exponent: string): string {
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

/** The coefficients of exp's series, so many of them, highest power first. */
const exponentialSeries = (terms: number): number[] => {
  const coefficients = [1]
  for (let i = 1; i < terms; i++) coefficients.unshift(coefficients[0] / i)
  return coefficients
}

/** Four of the eight 32-bit lanes of two expressions. */
const lanesOf = (lanes: readonly number[], a: string, b: string): string =>
  `(i8x16.shuffle ${lanes.flatMap(lane => [0, 1, 2, 3].map(byte => 4 * lane + byte)).join(' ')} ${a} ${b})`
