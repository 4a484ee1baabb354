// The values of a row program, computed in WGSL: one for the program, for a row, or for each vector of elements.
import type { RowProgram, RowValue } from '../../../compiler/program.ts'
import { type Elementwise, type Lanes, splat } from '../elementwise.ts'
import type { Code } from './code.ts'
import type { RowMemory, RowVector } from './row-memory.ts'

export class RowValues {
  private readonly work: RowProgram
  private readonly lanes: Lanes
  private readonly memory: RowMemory
  private readonly elementwise: Elementwise
  private readonly code: Code
  /** Names of values that the row or the program has one of. */
  private readonly singles = new Map<number, string>()

  constructor(work: RowProgram, lanes: Lanes, memory: RowMemory, elementwise: Elementwise, code: Code) {
    this.work = work
    this.lanes = lanes
    this.memory = memory
    this.elementwise = elementwise
    this.code = code
  }

  /** Computes a value that the row or the program has one of. */
  computeSingle(index: number, row: string): void {
    const { operation, inputs, dtype } = this.work.values[index]
    const value =
      operation.kind === 'load'
        ? this.memory.loadSingle(operation.access, row, dtype)
        : operation.kind === 'constant'
          ? this.code.let(this.elementwise.constant(operation.value, dtype))
          : this.code.let(
              this.compute(
                operation,
                inputs,
                inputs.map(input => this.single(input)),
                1,
              ),
            )
    this.singles.set(index, value)
  }

  /** Names the result of a reduction. */
  setSingle(index: number, name: string): void {
    this.singles.set(index, name)
  }

  /** The name of a value that the row or the program has one of. */
  single(value: number): string {
    return computed(this.singles.get(value), value)
  }

  /** A value for a vector's elements. */
  element(vector: RowVector, value: number): string {
    const { extent, dtype } = this.work.values[value]
    if (extent !== 'element') return splat(this.single(value), dtype, this.lanes)
    return computed(vector.known.get(value), value)
  }

  /** Loads what the needed values depend on. */
  load(vector: RowVector, needed: readonly number[]): void {
    for (const value of this.missing(vector, needed)) {
      const { operation, dtype } = this.work.values[value]
      if (operation.kind === 'load')
        vector.known.set(value, this.memory.loadVector(vector, operation.access, dtype))
    }
  }

  /** Computes the needed values for a vector's elements. */
  computeVector(vector: RowVector, needed: readonly number[]): void {
    this.load(vector, needed)
    for (const value of this.missing(vector, needed)) {
      const { operation, inputs } = this.work.values[value]
      const operands = inputs.map(input => this.element(vector, input))
      vector.known.set(value, this.code.let(this.compute(operation, inputs, operands, this.lanes)))
    }
  }

  /** The values still to be computed for a vector, operands first. */
  private missing(vector: RowVector, needed: readonly number[]): number[] {
    const found = new Set<number>()
    const visit = (value: number) => {
      const { extent, inputs } = this.work.values[value]
      if (extent !== 'element' || vector.known.has(value) || found.has(value)) return
      inputs.forEach(visit)
      found.add(value)
    }
    needed.forEach(visit)
    return [...found]
  }

  private compute(
    operation: RowValue['operation'],
    inputs: readonly number[],
    operands: readonly string[],
    lanes: Lanes,
  ): string {
    const dtype = this.work.values[inputs[0]].dtype
    switch (operation.kind) {
      case 'unary':
        return this.elementwise.unary(operation.name, operands[0], dtype, lanes)
      case 'binary':
        return this.elementwise.binary(operation.name, operands[0], operands[1], dtype, lanes)
      case 'where':
        return this.elementwise.where(operands[0], operands[1], operands[2])
      case 'load':
      case 'constant':
      case 'reduce':
        throw new Error(`${operation.kind} is not computed from operands`)
      default:
        return operation satisfies never
    }
  }
}

function computed(name: string | undefined, value: number): string {
  if (name === undefined) throw new Error(`a row kernel uses value ${value} before it is computed`)
  return name
}
