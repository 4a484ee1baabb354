/** WAT of elementwise operations on four lanes: which instructions or functions compute each. */
import type { BinaryName, DType, UnaryName } from '../../../graph/operations.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import { f32x4 as float, i32x4 as int } from '../wat.ts'
import { mul } from './arithmetic.ts'
import { power } from './float64.ts'
import { FloatFunctions } from './functions.ts'
import { randomBits } from './random-bits.ts'

/** A v128 constant of four equal lanes. True has all bits set, as comparisons produce it. */
export function constant(value: number, dtype: DType): string {
  if (dtype === 'float32') return float(value)
  return int(dtype === 'bool' ? -Number(value !== 0) : value)
}

/** Writes elementwise operations, with or without fused multiply-add. Operands are locals, which may be read many times. */
export class Elementwise {
  private readonly fma: boolean
  private readonly functions: FloatFunctions

  constructor(fma: boolean) {
    this.fma = fma
    this.functions = new FloatFunctions(fma)
  }

  /** An operation on x, whose data type is dtype. */
  unary(code: FunctionBuilder, name: UnaryName, x: string, dtype: DType): string {
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
        return this.functions.exp(code, x)
      case 'log':
        return this.functions.log(code, x)
      case 'log1p':
        return this.functions.log1p(code, x)
      case 'tanh':
        return this.functions.tanh(code, x)
      case 'erf':
        return this.functions.erf(code, x)
      case 'sin':
      case 'cos':
        return this.functions.sines(code, name, [x])[0]
      default:
        return name satisfies never
    }
  }

  /** An operation on a and b, whose data type is dtype. */
  binary(code: FunctionBuilder, name: BinaryName, a: string, b: string, dtype: DType): string {
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
        return randomBits(code, a, b)
      case 'power':
        return power(code, this.fma, a, b)
      default:
        return name satisfies never
    }
  }

  /** The sines or cosines of neighbouring vectors, which are faster together. */
  sines(code: FunctionBuilder, name: 'sin' | 'cos', xs: readonly string[]): string[] {
    return this.functions.sines(code, name, xs)
  }
}
