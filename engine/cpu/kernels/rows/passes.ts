/** Plans the passes over a row: when each value is computed, and which values are kept in scratch memory for later. */
import type { RowProgram } from '../../../compiler/program.ts'
import { elementBytes, pairBytes } from './vectors.ts'

export class Passes {
  /** Bytes of scratch memory: room for the lanes of a reduction, then the kept values. */
  readonly scratchBytes: number
  /** Values that are kept in scratch memory for a later pass, and their byte offsets there. */
  readonly spills: ReadonlyMap<number, number>
  private readonly program: RowProgram
  /** In which pass over the row each value is computed. */
  private readonly passes: number[] = []

  constructor(program: RowProgram) {
    this.program = program
    for (const { inputs } of program.values) {
      this.passes.push(Math.max(0, ...inputs.map(input => this.readyIn(input))))
    }
    const spilled = this.findSpills()
    const spillBytes = Math.ceil((program.columns * elementBytes) / pairBytes) * pairBytes
    this.spills = new Map(spilled.map((value, i) => [value, pairBytes + i * spillBytes]))
    this.scratchBytes = pairBytes + spilled.length * spillBytes
  }

  /** The pass that computes a value. */
  of(value: number): number {
    return this.passes[value]
  }

  /** The first pass that can use a value. */
  readyIn(value: number): number {
    return this.passes[value] + (this.isReduction(value) ? 1 : 0)
  }

  /** The last pass that computes a value. */
  get last(): number {
    return Math.max(0, ...this.passes)
  }

  isReduction(value: number): boolean {
    return this.program.values[value].operation.kind === 'reduce'
  }

  /** Whether each element of a row has its own value. */
  isElement(value: number): boolean {
    return this.program.values[value].extent === 'element'
  }

  /** Whether a pass loads a value, from its operand or from scratch memory, rather than computing it. */
  isLoaded(value: number, pass: number): boolean {
    return this.program.values[value].operation.kind === 'load' || this.isKept(value, pass)
  }

  /** Whether a pass reads a value from scratch memory, where an earlier pass left it. */
  isKept(value: number, pass: number): boolean {
    const { operation, inputs } = this.program.values[value]
    if (this.passes[value] >= pass || operation.kind === 'load') return false
    const cheap = operation.kind === 'binary' && ['add', 'subtract', 'multiply'].includes(operation.name)
    return !(
      cheap &&
      inputs.every(input => !this.isElement(input) || this.program.values[input].operation.kind === 'load')
    )
  }

  /** Everything that a pass computes or loads for some values, operands first. */
  closure(needed: readonly number[], pass: number): number[] {
    const found = new Set<number>()
    // A stack: the first value needed is on top.
    const pending = needed.toReversed()
    for (let value = pending.at(-1); value !== undefined; value = pending.at(-1)) {
      const { inputs } = this.program.values[value]
      const missing = this.isLoaded(value, pass)
        ? []
        : inputs.filter(input => this.isElement(input) && !found.has(input))
      if (found.has(value) || !this.isElement(value) || missing.length === 0) {
        pending.pop()
        if (this.isElement(value)) found.add(value)
      } else {
        pending.push(...missing.toReversed())
      }
    }
    return [...found]
  }

  /** Values that a later pass needs as well, and that are too expensive to compute again. */
  private findSpills(): number[] {
    const { values, stores, columnSums } = this.program
    const spills = new Set<number>()
    const pending: [value: number, pass: number][] = []
    const seen = new Set<string>()
    values.forEach((value, i) => {
      if (this.isReduction(i) && this.isElement(value.inputs[0]))
        pending.push([value.inputs[0], this.passes[i]])
    })
    for (const { value } of [...stores, ...columnSums])
      if (this.isElement(value)) pending.push([value, this.passes[value]])
    for (let next = pending.pop(); next; next = pending.pop()) {
      const [value, pass] = next
      const key = `${value}:${pass}`
      if (seen.has(key)) continue
      seen.add(key)
      if (this.isKept(value, pass)) spills.add(value)
      const computedIn = this.isKept(value, pass) ? this.passes[value] : pass
      for (const input of values[value].inputs) if (this.isElement(input)) pending.push([input, computedIn])
    }
    return [...spills]
  }
}
