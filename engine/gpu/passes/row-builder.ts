// Makes row programs out of others.
import type { Access, RowValue } from '../../compiler/program.ts'
import { extentOf } from '../../compiler/row-values.ts'

/** Builds a row program's values out of those of another one. */
export class RowBuilder {
  readonly values: RowValue[] = []
  private readonly copied = new Map<number, number>()
  private readonly from: readonly RowValue[]

  constructor(from: readonly RowValue[]) {
    this.from = from
  }

  /** Adds a value. Its extent follows from its inputs' extents, or from what it loads. */
  add(value: Omit<RowValue, 'extent'>): number {
    this.values.push({ ...value, extent: extentOf(value, this.values) })
    return this.values.length - 1
  }

  load(access: Access, dtype: RowValue['dtype']): number {
    return this.add({ operation: { kind: 'load', access }, inputs: [], dtype })
  }

  /**
   * Copies a value of the other program with all that it depends on, and returns its number here. replace may add
   * something else for a value and return the number of that.
   */
  copy(
    index: number,
    replace: (value: RowValue, index: number) => number | undefined = () => undefined,
  ): number {
    const known = this.copied.get(index)
    if (known !== undefined) return known
    const value = this.from[index]
    const number =
      replace(value, index) ??
      this.add({ ...value, inputs: value.inputs.map(input => this.copy(input, replace)) })
    this.copied.set(index, number)
    return number
  }
}
