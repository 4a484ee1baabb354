/** The values of a row program: their computation from operands, and those that a row or the whole program has one of. */
import type { DType } from '../../../graph/operations.ts'
import type { RowProgram, RowValue } from '../../../compiler/program.ts'
import { type Elementwise, constant } from '../elementwise/operations.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import type { Addressing } from './addressing.ts'

export class Values {
  private readonly program: RowProgram
  private readonly code: FunctionBuilder
  private readonly elementwise: Elementwise
  private readonly addressing: Addressing
  /** Expressions of values that a row or the program has one of. */
  private readonly singles = new Map<number, string>()

  constructor(program: RowProgram, code: FunctionBuilder, elementwise: Elementwise, addressing: Addressing) {
    this.program = program
    this.code = code
    this.elementwise = elementwise
    this.addressing = addressing
  }

  /** The value that the current row or the program has one of. */
  single(value: number): string {
    const single = this.singles.get(value)
    if (single === undefined) throw new Error(`value ${value} is not computed yet`)
    return single
  }

  setSingle(value: number, expression: string): void {
    this.singles.set(value, expression)
  }

  /** Computes a value that the program or the row with this number has one of. */
  computeSingle(index: number, { operation, inputs, dtype }: RowValue, row: string): void {
    const { code } = this
    const type = dtype === 'float32' ? 'f32' : 'i32'
    if (operation.kind === 'load') {
      const { access } = operation
      const address = this.addressing.rowAddress(access, row)
      this.setSingle(index, access.buffer ? code.let(type, `(${type}.load ${address})`) : address)
      return
    }
    if (operation.kind === 'constant') {
      const vector = constant(operation.value, dtype)
      this.setSingle(index, code.let(type, `(${type}x4.extract_lane 0 ${vector})`))
      return
    }
    const operands = inputs.map(input => code.let('v128', this.splat(input)))
    const vector = this.compute(operation, operands, inputs)
    this.setSingle(index, code.let(type, `(${type}x4.extract_lane 0 ${vector})`))
  }

  /** A single value in all four lanes. */
  splat(value: number): string {
    const lanes = this.program.values[value].dtype === 'float32' ? 'f32x4' : 'i32x4'
    return `(${lanes}.splat ${this.single(value)})`
  }

  /** An operation on four lanes. operands: locals with the values of inputs. */
  compute(operation: RowValue['operation'], operands: readonly string[], inputs: readonly number[]): string {
    const { code, elementwise } = this
    const dtypes = inputs.map((input): DType => this.program.values[input].dtype)
    switch (operation.kind) {
      case 'unary':
        return elementwise.unary(code, operation.name, operands[0], dtypes[0])
      case 'binary':
        return elementwise.binary(code, operation.name, operands[0], operands[1], dtypes[0])
      case 'where':
        return `(v128.bitselect ${operands[1]} ${operands[2]} ${operands[0]})`
      case 'load':
      case 'constant':
      case 'reduce':
        throw new Error(`${operation.kind} is not computed from operands`)
      default:
        return operation satisfies never
    }
  }
}
