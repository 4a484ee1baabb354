// Sums over the rows of a block, one for each column: in registers while the row fits them, else in memory.
import type { RowProgram } from '../../../compiler/program.ts'
import { splat, valueType } from '../elementwise.ts'
import type { Code, WorkgroupMemory } from './code.ts'
import type { RowMemory, RowVector } from './row-memory.ts'
import type { RowPlan } from './row-plan.ts'

export type ColumnSum = RowProgram['columnSums'][number]

/** Whether a sum is of one value for each row, and so a single number for a block. */
export const isNarrow = ({ width }: Pick<ColumnSum, 'width'>): boolean => width === 1

export class ColumnSums {
  private readonly plan: RowPlan
  private readonly rowBlock: number
  private readonly memory: RowMemory
  private readonly code: Code
  private readonly shared: WorkgroupMemory
  /** The sums that have a number for each column. */
  private readonly wide: readonly ColumnSum[]

  constructor(
    { columnSums, rowBlock }: RowProgram,
    plan: RowPlan,
    memory: RowMemory,
    code: Code,
    shared: WorkgroupMemory,
  ) {
    this.wide = columnSums.filter(sum => !isNarrow(sum))
    this.rowBlock = rowBlock
    this.plan = plan
    this.memory = memory
    this.code = code
    this.shared = shared
  }

  /** Registers for a vector's sums. */
  registers(): string[] {
    return this.wide.map(() => this.code.variable(splat('0f', 'float32', this.plan.lanes)))
  }

  /** Adds a vector's elements to the sums of their columns. */
  add(vector: RowVector, sum: ColumnSum, value: string): void {
    const { memory, code } = this
    const { lanes } = this.plan
    if (vector.sums) {
      code.push(`${vector.sums[this.wide.indexOf(sum)]} += ${value};`)
      return
    }
    // The row is too long for registers: its sums grow in memory. The same invocation adds to a column in each row.
    const name = memory.name(sum.buffer, true)
    const width = memory.lanesIn(sum.buffer)
    for (let lane = 0; lane < lanes / width; lane++) {
      const address = code.let(
        `(${memory.columnSumStart(sum)} + ${vector.unit}) * ${lanes / width}u + ${lane}u`,
      )
      const added = width === lanes ? value : `(${value})[${lane}]`
      const zero = splat('0f', 'float32', width)
      const before = this.rowBlock > 1 ? `select(${name}[${address}], ${zero}, step == 0u)` : zero
      code.push(`${name}[${address}] = ${before} + ${added};`)
    }
  }

  /** Adds up the sums that the teams of a workgroup have in registers, and stores them. */
  finish(vectors: readonly RowVector[]): void {
    this.wide.forEach((sum, i) => this.finishSum(sum, vectors, i))
  }

  private finishSum(sum: ColumnSum, vectors: readonly RowVector[], index: number): void {
    const { memory, code } = this
    const { size, team, lanes } = this.plan
    const teams = size / team
    const name = memory.name(sum.buffer, true)
    const width = memory.lanesIn(sum.buffer)
    if (teams > 1) this.shared.declare('columns', valueType('float32', lanes), size)
    for (const vector of vectors) {
      const own = vector.sums?.[index] ?? ''
      let total = own
      if (teams > 1) {
        code.push('workgroupBarrier();', `columns[worker] = ${own};`, 'workgroupBarrier();')
        total = code.variable(`columns[member]`)
        code.push(
          `for (var other = 1u; other < ${teams}u; other++) { ${total} += columns[other * ${team}u + member]; }`,
        )
      }
      const conditions = ['team == 0u', ...(vector.isInside ? [vector.isInside] : [])]
      const place = code.let(`${memory.columnSumStart(sum)} + ${vector.unit}`)
      code.push(`if (${conditions.join(' && ')}) {`)
      if (width === lanes) code.push(`${name}[${place}] = ${total};`)
      else
        for (let lane = 0; lane < lanes; lane++)
          code.push(`${name}[${place} * ${lanes}u + ${lane}u] = ${total}[${lane}];`)
      code.push('}')
    }
  }
}
