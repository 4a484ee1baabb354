import type { BinaryName, DType, UnaryName } from '../graph.ts'
import { exp, func, log } from './wat.ts'

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

/** A float as text, which must keep the sign of a zero. */
const spell = (value: number): string =>
  Object.is(value, -0)
    ? '-0'
    : Number.isFinite(value)
      ? `${Math.fround(value)}`
      : `${value}`.toLowerCase().replace('infinity', 'inf')
const float = (value: number): string => `(v128.const f32x4 ${Array(4).fill(spell(value)).join(' ')})`
const int = (value: number): string => `(v128.const i32x4 ${Array(4).fill(value).join(' ')})`

/** A v128 constant of four equal lanes. */
export const constant = (value: number, dtype: DType): string =>
  dtype === 'float32' ? float(value) : int(value)

const add = (a: string, b: string) => `(f32x4.add ${a} ${b})`
const sub = (a: string, b: string) => `(f32x4.sub ${a} ${b})`
const mul = (a: string, b: string) => `(f32x4.mul ${a} ${b})`

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
      case 'tanh':
        return this.tanh(code, x)
      case 'erf':
        return this.erf(code, x)
      case 'sin':
        return this.sine(code, x, 0)
      case 'cos':
        return this.sine(code, x, 0.5)
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
    }
  }

  private exp(code: Code, x: string): string {
    const [value, work] = [code.local('v128'), code.local('v128')]
    code.push(`(local.set $${value} ${x})`, exp(this.fma, value, work))
    return `(local.get $${value})`
  }

  /** Zero gives -Infinity, what is below NaN. */
  private log(code: Code, x: string): string {
    const [value, first, second] = [code.local('v128'), code.local('v128'), code.local('v128')]
    code.push(`(local.set $${value} ${x})`, log(this.fma, value, first, second))
    const special = `(v128.bitselect ${float(-Infinity)} ${float(NaN)} (f32x4.eq ${x} ${float(0)}))`
    const positive = `(v128.bitselect (local.get $${value}) ${special} (f32x4.gt ${x} ${float(0)}))`
    return `(v128.bitselect ${x} ${positive} (f32x4.eq ${x} ${float(Infinity)}))`
  }

  /** tanh(x): Cephes' polynomial near zero, 1 − 2 / (exp(2x) + 1) beyond. */
  private tanh(code: Code, x: string): string {
    const squared = code.let('v128', mul(x, x))
    const p = this.polynomial(
      squared,
      [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
    )
    const near = code.let('v128', this.multiplyAdd(mul(p, squared), x, x))
    const grown = code.let('v128', this.exp(code, code.let('v128', add(x, x))))
    const far = sub(float(1), `(f32x4.div ${float(2)} ${add(grown, float(1))})`)
    return `(v128.bitselect ${near} ${far} (f32x4.lt (f32x4.abs ${x}) ${float(0.625)}))`
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

  /** sin(x + shift·π) for a shift of 0 or ½: the nearest multiple of π is taken off in three parts. */
  private sine(code: Code, x: string, shift: number): string {
    // Adding 1.5 · 2^23 rounds to an integer, and leaves it in the low bits.
    const magic = float(12582912)
    const turns = shift ? this.multiplyAdd(x, float(1 / Math.PI), float(shift)) : mul(x, float(1 / Math.PI))
    const shifted = code.let('v128', add(turns, magic))
    const n = code.let('v128', sub(shifted, magic))
    const multiple = shift ? code.let('v128', sub(n, float(shift))) : n
    let r = x
    for (const part of [-3.140625, -9.675025939941406e-4, -1.5099579909783765e-7])
      r = code.let('v128', this.multiplyAdd(multiple, float(part), r))
    const squared = code.let('v128', mul(r, r))
    const p = this.polynomial(
      squared,
      [-2.3889859e-8, 2.7525562e-6, -1.9840874e-4, 8.333331e-3, -1.6666667e-1],
    )
    const value = this.multiplyAdd(mul(p, squared), r, r)
    const sign = `(i32x4.shl ${shifted} (i32.const 31))`
    return `(v128.xor ${value} ${sign})`
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
