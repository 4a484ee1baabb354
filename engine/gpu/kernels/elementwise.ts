// Elementwise operations in WGSL. Functions that WGSL has not, or not exactly enough, are written out here.
import type { BinaryName, DType, UnaryName } from '../../graph/operations.ts'

/** The number of neighbouring elements that an expression computes: a scalar's, or a vector's. */
export type Lanes = 1 | 2 | 4

/** The WGSL type of a scalar or vector. */
export function valueType(dtype: DType, lanes: Lanes): string {
  const scalar = dtype === 'float32' ? 'f32' : dtype === 'int32' ? 'i32' : 'bool'
  return lanes === 1 ? scalar : `vec${lanes}<${scalar}>`
}

/** A scalar in every lane of a vector. */
export const splat = (scalar: string, dtype: DType, lanes: Lanes): string =>
  lanes === 1 ? scalar : `${valueType(dtype, lanes)}(${scalar})`

/** A finite float as a WGSL literal. */
const float = (value: number): string => {
  const text = `${Math.abs(Math.fround(value))}f`
  return value < 0 ? `(-${text})` : text
}

/** Horner's scheme, highest power first. */
const polynomial = (x: string, coefficients: readonly number[]): string =>
  coefficients.map(float).reduce((sum, coefficient) => `(${sum} * ${x} + ${coefficient})`)

/** 1 / 2π in words of 32 bits. The first word is its integer part. */
const wordsOfReciprocal = [
  0x00000000, 0x28be60db, 0x9391054a, 0x7f09d5f4, 0x7d4d3770, 0x36d8a566, 0x4f10e410, 0x7f9458ea,
]

/** For a vector of indices from 0 to 4, the words at these indices + after. */
const wordAt = (indices: string, after: number): string =>
  [3, 2, 1, 0].reduce(
    (others, i) => `select(${others}, ${word(i + after)}, ${indices} == $U(${i}u))`,
    word(4 + after),
  )

const word = (index: number): string => `$U(${wordsOfReciprocal[index]}u)`

/**
 * sin(x + shift·π) for a shift of 0 or ½. The nearest multiple of π is subtracted in three parts. For large x, the
 * remainder is computed in integers (Payne & Hanek 1983): x is m · 2^e with an integer m of 24 bits, and m is multiplied
 * with the 96 bits of 1 / 2π that matter for the fraction of a turn. upper and lower are the first 64 bits of that fraction.
 */
const sine = (shift: 0 | 0.5): string => `
  var n = round(x * ${float(1 / Math.PI)} + ${float(shift)});
  let multiple = n - ${float(shift)};
  var r = ((x - multiple * 3.140625f) - multiple * 9.675025939941406e-4f) - multiple * 1.5099579909783765e-7f;
  var odd = bitcast<$U>($I(n));
  let bits = bitcast<$U>(x);
  let is_large = (bits & $U(0x7fffffffu)) > $U(0x44800000u);
  if (any(is_large)) {
    let m = (bits & $U(0x7fffffu)) | $U(0x800000u);
    let first = ((bits >> $U(23u)) & $U(255u)) - $U(118u);
    let index = first >> $U(5u);
    let left = first & $U(31u);
    let w0 = ${wordAt('index', 0)};
    let w1 = ${wordAt('index', 1)};
    let w2 = ${wordAt('index', 2)};
    let w3 = ${wordAt('index', 3)};
    let right = $U(31u) - left;
    let a = (w0 << left) | ((w1 >> $U(1u)) >> right);
    let b = (w1 << left) | ((w2 >> $U(1u)) >> right);
    let c = (w2 << left) | ((w3 >> $U(1u)) >> right);
    let carried = upper_product$N(m, c);
    var lower = m * b + carried;
    var upper = m * a + upper_product$N(m, b) + select($U(0u), $U(1u), lower < carried);
    upper = select(upper, $U(0u) - upper - select($U(1u), $U(0u), lower == $U(0u)), x < $F(0f));
    lower = select(lower, $U(0u) - lower, x < $F(0f));
    upper += $U(${shift * 2 ** 31}u);
    let half_turns = (upper + $U(0x40000000u)) >> $U(31u);
    upper ^= half_turns << $U(31u);
    let is_negative = upper > $U(0x7fffffffu);
    upper = select(upper, ~upper, is_negative);
    lower = select(lower, ~lower, is_negative);
    let is_tiny = upper == $U(0u);
    let leading = select(upper, lower, is_tiny);
    let zeros = countLeadingZeros(leading);
    let following = select((lower >> $U(1u)) >> ($U(31u) - zeros), $U(0u), is_tiny);
    let scale = bitcast<$F>(($U(127u) - zeros - select($U(0u), $U(32u), is_tiny)) << $U(23u));
    let size = $F((leading << zeros) | following) * ${float(2 * Math.PI * 2 ** -32)} * scale;
    let exact = select(size, -size, is_negative);
    let rest = select(exact, $F(of_bits(0x7fc00000u)), (bits & $U(0x7f800000u)) == $U(0x7f800000u));
    r = select(r, rest, is_large);
    odd = select(odd, half_turns, is_large);
  }
  let s = r * r;
  let value = r * (1f + s * ${polynomial('s', [-2.3889859e-8, 2.7525562e-6, -1.9840874e-4, 8.333331e-3, -1.6666667e-1])});
  return bitcast<$F>(bitcast<$U>(value) ^ (odd << $U(31u)));`

/** From Cephes (S. Moshier): logf.c's log(1 + f) for a mantissa 1 + f between √½ and √2, and expf.c's exp(r). */
const logPolynomial = [
  7.0376836292e-2, -0.1151461031, 0.1167699874, -0.12420140846, 0.14249322787, -0.16668057665, 0.20000714765,
  -0.24999993993, 0.33333331174, -0.5,
]
const expPolynomial = [
  1.9875691e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5, 1, 1,
]

/**
 * Splits a positive x, given by its bits, into the f of its mantissa 1 + f and its exponent e. A subnormal number is read
 * as its bits times 2^-149, since a GPU's arithmetic may treat it as zero.
 */
const mantissaAndExponent = (given: string): string => `
  let is_small = ${given} < $I(0x00800000);
  let bits = select(${given}, bitcast<$I>($F(${given})), is_small);
  let exponent = (bits - $I(0x3f3504f3)) >> $U(23u);
  let f = bitcast<$F>(bits - (exponent << $U(23u))) - 1f;
  let e = $F(exponent) - select($F(0f), $F(149f), is_small);`

/** value · 2^n for integers n from -200 to 200, in two factors that are normal numbers. */
const timesPowerOfTwo = (value: string, n: string): string => `
  let whole = $I(${n});
  let half = whole >> $U(1u);
  let first = bitcast<$F>((half + $I(127)) << $U(23u));
  let second = bitcast<$F>((whole - half + $I(127)) << $U(23u));
  let scaled = (${value} * first) * second;`

/**
 * Functions in WGSL for $N lanes, with the types $F (float), $I and $U (integers), and $B (bool). WGSL's own functions may
 * be inexact and may assume that there are no NaNs. These have errors of about 1e-7, and recognise NaN by its bits.
 */
const functions = {
  is_nan: `fn is_nan$N(x: $F) -> $B { return (bitcast<$U>(x) & $U(0x7fffffffu)) > $U(0x7f800000u); }`,

  larger: `fn larger$N(a: $F, b: $F) -> $F { return select(max(a, b), a + b, is_nan$N(a) | is_nan$N(b)); }`,

  smaller: `fn smaller$N(a: $F, b: $F) -> $F { return select(min(a, b), a + b, is_nan$N(a) | is_nan$N(b)); }`,

  // x − x, which compilers replace by zero: for infinity and NaN it is NaN.
  own_difference: `fn own_difference$N(x: $F) -> $F {
  return select($F(0f), $F(of_bits(0x7fc00000u)), (bitcast<$U>(x) & $U(0x7f800000u)) == $U(0x7f800000u));
}`,

  // A literal may not be infinite or NaN.
  of_bits: `var<private> no_bits: u32 = 0u;
fn of_bits(bits: u32) -> f32 { return bitcast<f32>(bits | no_bits); }`,

  // 2^n · exp(r). A GPU may round subnormal results to 0.
  exponential: `fn exponential$N(value: $F) -> $F {
  let x = clamp(value, $F(-104f), $F(89f));
  let n = round(x * ${float(Math.LOG2E)});
  let r = (x - n * 0.693359375f) + n * 2.1219444e-4f;
  let p = ${polynomial('r', expPolynomial)};${timesPowerOfTwo('p', 'n')}
  let bounded = select(scaled, $F(of_bits(0x7f800000u)), value > $F(88.72283172607422f));
  return select(bounded, value, is_nan$N(value));
}`,

  logarithm: `fn logarithm$N(x: $F) -> $F {
  let given = bitcast<$I>(x);${mantissaAndExponent('given')}
  let p = ${polynomial('f', logPolynomial)};
  let value = (f + (f * f * p - e * 2.1219444e-4f)) + e * 0.693359375f;
  let is_zero = (given & $I(0x7fffffff)) == $I(0);
  let special = select($F(of_bits(0x7fc00000u)), $F(of_bits(0xff800000u)), is_zero);
  return select(select(special, value, given > $I(0)), x, is_nan$N(x) | (given == $I(0x7f800000)));
}`,

  // For |x| below ½, the series of 2 · artanh(s) with 2s = x / (1 + x/2); otherwise the logarithm of 1 + x.
  log_of_one_plus: `fn log_of_one_plus$N(x: $F) -> $F {
  let twice = x / (x * 0.5f + 1f);
  let q = twice * twice * 0.25f;
  let near = twice * ${polynomial(
    'q',
    [15, 13, 11, 9, 7, 5, 3, 1].map(odd => 1 / odd),
  )};
  return select(logarithm$N(1f + x), near, abs(x) < $F(0.5f));
}`,

  // 2^(b · log2 |a|), and then what a's sign and the edges make of it. b is not 0. Of b times the exponent e, the upper 12
  // bits of b make an exact product.
  power: `fn power$N(a: $F, b: $F) -> $F {
  let given = bitcast<$I>(a) & $I(0x7fffffff);${mantissaAndExponent('given')}
  let l = (f + f * f * ${polynomial('f', logPolynomial)}) * ${float(Math.LOG2E)};
  let bounded = clamp(b, $F(-1e12f), $F(1e12f));
  let high = bitcast<$F>(bitcast<$U>(bounded) & $U(0xfffff000u));
  let product = high * e;
  let nearest = round(product);
  let rest = (product - nearest) + ((bounded - high) * e + bounded * l);
  let n = clamp(nearest + round(rest), $F(-200f), $F(200f));
  let r = (rest - round(rest)) * ${float(Math.LN2)};
  let p = ${polynomial('r', expPolynomial)};${timesPowerOfTwo('p', 'n')}
  let is_infinite = given == $I(0x7f800000);
  let is_edge = is_infinite | (given == $I(0));
  let edge = select($F(0f), $F(of_bits(0x7f800000u)), is_infinite == (b > $F(0f)));
  let value = select(scaled, edge, is_edge);
  let is_whole = floor(b) == b;
  let is_odd = is_whole & (floor(b * 0.5f) != b * 0.5f);
  let sign = bitcast<$U>(a) & $U(0x80000000u);
  let signed = bitcast<$F>(bitcast<$U>(value) | select($U(0u), sign, is_odd));
  let is_defined = is_whole | is_edge | (sign == $U(0u));
  return select(select($F(of_bits(0x7fc00000u)), signed, is_defined), a, is_nan$N(a));
}`,

  // Cephes' polynomial near zero, 1 − 2 / (exp(2x) + 1) beyond.
  hyperbolic_tangent: `fn hyperbolic_tangent$N(x: $F) -> $F {
  let s = x * x;
  let near = x * (1f + s * ${polynomial('s', [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1])});
  let far = 1f - 2f / (exponential$N(x + x) + 1f);
  return select(far, near, abs(x) < $F(0.625f));
}`,

  // x · p(x²) / q(x²) on [−4, 4], beyond which it is ±1 in float32. The fit is Eigen's.
  error_function: `fn error_function$N(value: $F) -> $F {
  let x = clamp(value, $F(-4f), $F(4f));
  let s = x * x;
  let p = ${polynomial('s', [-2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6, -5.69250639462346e-5, -7.34990630326855e-4, -2.95459980854025e-3, -1.60960333262415e-2])};
  let q = ${polynomial('s', [-1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3, -7.37332916720468e-3, -1.42647390514189e-2])};
  return select(x * (p / q), value, is_nan$N(value));
}`,

  sine: `fn sine$N(x: $F) -> $F {${sine(0)}
}`,

  cosine: `fn cosine$N(x: $F) -> $F {${sine(0.5)}
}`,

  // The upper 32 bits of the product of two numbers, of 24 and 32 bits.
  upper_product: `fn upper_product$N(x: $U, y: $U) -> $U {
  let high = x >> $U(16u);
  let low = x & $U(0xffffu);
  let middle = low * (y >> $U(16u)) + ((low * (y & $U(0xffffu))) >> $U(16u));
  let other = high * (y & $U(0xffffu)) + (middle & $U(0xffffu));
  return high * (y >> $U(16u)) + (middle >> $U(16u)) + (other >> $U(16u));
}`,

  // NaN becomes 0, and what is out of range the nearest integer in range.
  truncated: `fn truncated$N(x: $F) -> $I {
  let small = $I(clamp(x, $F(-2147483648f), $F(2147483520f)));
  let low = select(small, $I(-2147483648), x <= $F(-2147483648f));
  return select(select(low, $I(2147483647), x >= $F(2147483648f)), $I(0), is_nan$N(x));
}`,

  // One round of a 32-bit finalizer (Wellons' lowbias32).
  mixed: `fn mixed$N(value: $U) -> $U {
  let first = (value ^ (value >> $U(16u))) * $U(0x21f0aaadu);
  let second = (first ^ (first >> $U(15u))) * $U(0x735a2d97u);
  return second ^ (second >> $U(15u));
}`,

  // Two rounds, each with the key.
  random_bits: `fn random_bits$N(counter: $I, key: $I) -> $I {
  let k = bitcast<$U>(key);
  let once = mixed$N(bitcast<$U>(counter) + k * $U(0x9e3779b9u));
  return bitcast<$I>(mixed$N(once ^ k));
}`,
}

type FunctionName = keyof typeof functions

const isFunctionName = (name: string): name is FunctionName => name in functions

/** Writes elementwise operations on scalars and vectors in WGSL, and collects the functions that they call. */
export class Elementwise {
  private readonly used = new Map<string, string>()

  /** Declarations of the functions that have been called. */
  get declarations(): string {
    return [...this.used.values()].join('\n')
  }

  /** Operands have to be names, since the code may repeat them. */
  unary(name: UnaryName, x: string, dtype: DType, lanes: Lanes): string {
    const floats = valueType('float32', lanes)
    const integers = valueType('int32', lanes)
    switch (name) {
      case 'detach':
        return x
      case 'negate':
        return `-${x}`
      case 'abs':
      case 'sqrt':
      case 'floor':
        return `${name}(${x})`
      case 'reciprocal':
        return `1f / ${x}`
      case 'toFloat':
        return dtype === 'bool' ? `select(${floats}(0f), ${floats}(1f), ${x})` : `${floats}(${x})`
      case 'toInt':
        return dtype === 'bool'
          ? `select(${integers}(0), ${integers}(1), ${x})`
          : this.call('truncated', lanes, x)
      case 'bitsToUniform': {
        const unsigned = `bitcast<${unsignedType(lanes)}>(${x})`
        return `${floats}(${unsigned} >> ${unsignedType(lanes)}(8u)) * ${float(2 ** -24)}`
      }
      case 'exp':
        return this.call('exponential', lanes, x)
      case 'log':
        return this.call('logarithm', lanes, x)
      case 'log1p':
        return this.call('log_of_one_plus', lanes, x)
      case 'tanh':
        return this.call('hyperbolic_tangent', lanes, x)
      case 'erf':
        return this.call('error_function', lanes, x)
      case 'sin':
        return this.call('sine', lanes, x)
      case 'cos':
        return this.call('cosine', lanes, x)
      default:
        return name satisfies never
    }
  }

  binary(name: BinaryName, a: string, b: string, dtype: DType, lanes: Lanes): string {
    switch (name) {
      case 'add':
        return `${a} + ${b}`
      case 'subtract':
        return a === b && dtype === 'float32' ? this.call('own_difference', lanes, a) : `${a} - ${b}`
      case 'multiply':
        return `${a} * ${b}`
      case 'divide':
        return `${a} / ${b}`
      case 'maximum':
        return dtype === 'float32' ? this.call('larger', lanes, a, b) : `max(${a}, ${b})`
      case 'minimum':
        return dtype === 'float32' ? this.call('smaller', lanes, a, b) : `min(${a}, ${b})`
      case 'equal':
        return `${a} == ${b}`
      case 'less':
        return `${a} < ${b}`
      case 'lessEqual':
        return `${a} <= ${b}`
      case 'and':
        return `${a} & ${b}`
      case 'xor':
        return dtype === 'bool' ? `${a} != ${b}` : `${a} ^ ${b}`
      case 'randomBits':
        return this.call('random_bits', lanes, a, b)
      case 'power':
        return this.call('power', lanes, a, b)
      default:
        return name satisfies never
    }
  }

  where(condition: string, yes: string, no: string): string {
    return `select(${no}, ${yes}, ${condition})`
  }

  constant(value: number, dtype: DType): string {
    if (dtype === 'bool') return `${value !== 0}`
    if (dtype === 'int32') return `i32(${value | 0})`
    const rounded = Math.fround(value)
    // Compilers may drop the sign of a zero.
    if (Object.is(rounded, -0)) return this.ofBits('0x80000000u')
    if (Number.isFinite(rounded)) return float(rounded)
    return Number.isNaN(rounded) ? this.ofBits('0x7fc00000u') : this.infinity(rounded > 0)
  }

  infinity(isPositive: boolean): string {
    return this.ofBits(isPositive ? '0x7f800000u' : '0xff800000u')
  }

  private ofBits(bits: string): string {
    return this.call('of_bits', 1, bits)
  }

  private call(name: FunctionName, lanes: Lanes, ...operands: readonly string[]): string {
    this.use(name, lanes)
    return `${spelled(name, lanes)}(${operands.join(', ')})`
  }

  /** Adds a function and those that it calls. */
  private use(name: FunctionName, lanes: Lanes): void {
    const key = spelled(name, lanes)
    if (this.used.has(key)) return
    const text = functions[name]
    const types: Record<string, string> = {
      F: valueType('float32', lanes),
      I: valueType('int32', lanes),
      U: unsignedType(lanes),
      B: valueType('bool', lanes),
      N: `${lanes}`,
    }
    this.used.set(
      key,
      text.replace(/\$([FIUBN])/g, (_, letter: string) => types[letter]),
    )
    for (const [, called] of text.matchAll(/\b(\w+?)(?:\$N)?\(/g))
      if (called !== name && isFunctionName(called)) this.use(called, called === 'of_bits' ? 1 : lanes)
  }
}

const spelled = (name: FunctionName, lanes: Lanes): string => (name === 'of_bits' ? name : `${name}${lanes}`)

const unsignedType = (lanes: Lanes): string => (lanes === 1 ? 'u32' : `vec${lanes}<u32>`)
