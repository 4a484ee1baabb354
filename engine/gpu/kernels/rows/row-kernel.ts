// The kernel of a row program: how invocations go through rows, and the passes over each row.
import { costOf } from '../../../compiler/cost.ts'
import { hash } from '../../../compiler/hash.ts'
import type { BinaryName, UnaryName } from '../../../graph/operations.ts'
import type { RowProgram } from '../../../compiler/program.ts'
import { Elementwise, splat } from '../elementwise.ts'
import { Bindings } from '../bindings.ts'
import { type Dispatch, type Target, type TypeOf, bytesOf } from '../kernel.ts'
import { shader } from '../shader.ts'
import { isReduction, passesOf } from '../../../compiler/row-values.ts'
import { cheapOf } from './analysis.ts'
import { Code, WorkgroupMemory } from './code.ts'
import { ColumnSums, isNarrow } from './column-sums.ts'
import { Reductions, levelsOf } from './reductions.ts'
import { type Batch, RowMemory, type RowVector } from './row-memory.ts'
import { type RowPlan, inPlaceRowAllocations, planRows } from './row-plan.ts'
import { RowValues } from './row-values.ts'

const single: Batch = { count: 1, operands: new Map() }

/** The kernel of a row program, or of a batch of repetitions of it. */
export function rowDispatch(work: RowProgram, typeOf: TypeOf, target: Target, batch = single): Dispatch {
  return new RowWriter(work, planRows(work, target), typeOf, target, batch).write()
}

class RowWriter {
  private readonly work: RowProgram
  private readonly plan: RowPlan
  private readonly typeOf: TypeOf
  private readonly target: Target
  private readonly batch: Batch
  /** WGSL for the workgroup's number among those of its repetition. */
  private readonly group: string
  private readonly bindings: Bindings
  private readonly elementwise = new Elementwise()
  private readonly code = new Code()
  private readonly shared = new WorkgroupMemory()
  private readonly memory: RowMemory
  private readonly values: RowValues
  private readonly reductions: Reductions
  private readonly columnSums: ColumnSums
  private readonly passes: readonly number[]
  /** A WGSL condition, where a team may have no row. */
  private rowIsInside: string | undefined

  constructor(work: RowProgram, plan: RowPlan, typeOf: TypeOf, target: Target, batch: Batch) {
    const { elementwise, code, shared } = this
    this.work = work
    this.batch = batch
    this.group = batch.count > 1 ? 'part' : 'group'
    this.plan = plan
    this.typeOf = typeOf
    this.target = target
    this.bindings = new Bindings(typeOf)
    this.memory = new RowMemory(work, plan, batch, this.bindings, code)
    this.values = new RowValues(work, plan.lanes, this.memory, elementwise, code)
    this.reductions = new Reductions(plan, target, elementwise, code, shared)
    this.columnSums = new ColumnSums(work, plan, this.memory, code, shared)
    this.passes = passesOf(work.values)
  }

  write(): Dispatch {
    const { plan, work, target, bindings, batch, code } = this
    if (batch.count > 1)
      code.push(`let instance = group / ${plan.workgroups}u;`, `let part = group % ${plan.workgroups}u;`)
    if (plan.isFlat) this.writeFlat()
    else this.writeTeams()
    const { size } = plan
    const workgroups = plan.workgroups * batch.count
    const declarations = [...this.shared.declarations, this.elementwise.declarations].join('\n')
    const text = shader({ bindings, target, size, workgroups, declarations, body: code.text })
    const { bytes } = costOf(work, buffer => bytesOf[this.typeOf(buffer)])
    return {
      kernel: { name: `${this.description} ${hash(text)}`, code: text },
      buffers: bindings.buffers,
      writes: bindings.writes,
      workgroups,
      flops: 0,
      bytes,
    }
  }

  /** The number of columns, and the operations that take longest. */
  private get description(): string {
    const { values, columns, columnSums } = this.work
    const names = values.flatMap(({ operation }) =>
      'name' in operation && !plainNames.has(operation.name) ? [operation.name] : [],
    )
    return ['rows', columns, ...new Set(names), ...(columnSums.length > 0 ? ['columns'] : [])].join(' ')
  }

  /** Each invocation computes one vector of one row. */
  private writeFlat(): void {
    const { code } = this
    const { rows, columns, values, stores } = this.work
    const { size, lanes } = this.plan
    const units = columns / lanes
    code.push(`let index = ${this.group} * ${size}u + thread;`, `if (index >= ${rows * units}u) { return; }`)
    const row = rows === 1 ? '0u' : units === 1 ? 'index' : code.let(`index / ${units}u`)
    const unit = rows === 1 ? 'index' : units === 1 ? '0u' : code.let(`index % ${units}u`)
    this.memory.startRow(row)
    values.forEach((value, i) => {
      if (value.extent !== 'element') this.values.computeSingle(i, row)
    })
    const vector = vectorAt(unit)
    const wide = stores.filter(({ access }) => access.columnStride !== 0)
    this.values.computeVector(
      vector,
      wide.map(({ value }) => value),
    )
    for (const store of wide) this.store(vector, store)
    this.storeSingles(row, units === 1 ? [] : [`${unit} == 0u`])
  }

  /** Teams of invocations go through rows together. */
  private writeTeams(): void {
    const { code } = this
    const { rows, rowBlock, values, columnSums } = this.work
    const { size, team, chunks, keptVectors, lanes } = this.plan
    const teams = size / team
    const hasSums = columnSums.length > 0
    const usesSubgroups = this.target.subgroups && (values.some(isReduction) || columnSums.some(isNarrow))
    code.push(
      // Neighbours in a team have to be neighbours in a subgroup.
      `let worker = ${usesSubgroups ? 'subgroup * subgroup_size + lane' : 'thread'};`,
      `let member = ${team === 1 ? '0u' : `worker % ${team}u`};`,
      `let team = ${teams === 1 ? '0u' : `worker / ${team}u`};`,
      `let block = ${chunks === 1 ? this.group : `${this.group} / ${chunks}u`};`,
      `let chunk = ${chunks === 1 ? '0u' : `${this.group} % ${chunks}u`};`,
    )
    values.forEach((value, i) => {
      if (value.extent === 'uniform') this.values.computeSingle(i, '0u')
    })
    const sums = Array.from({ length: keptVectors }, () => this.columnSums.registers())
    const narrowSums = columnSums.filter(isNarrow).map(sum => ({ ...sum, total: code.variable('0f') }))
    const units = this.work.columns / lanes
    const vectors = sums.map((vectorSums, i): RowVector => {
      const unit = code.let(`chunk * ${team}u + ${i * team}u + member`)
      const isWhole = (Math.max(i, chunks - 1) + 1) * team <= units
      return {
        unit: isWhole ? unit : code.let(`min(${unit}, ${units - 1}u)`),
        isInside: isWhole ? undefined : code.let(`${unit} < ${units}u`),
        known: new Map(),
        sums: vectorSums,
      }
    })
    const iterations = hasSums ? Math.ceil(rowBlock / teams) : 1
    if (iterations > 1) code.push(`for (var step = 0u; step < ${iterations}u; step++) {`)
    const place = iterations > 1 ? code.let(`step * ${teams}u + team`) : 'team'
    const counted = code.let(`block * ${hasSums ? rowBlock : teams}u + ${place}`)
    const conditions = [
      ...(hasSums && rowBlock % teams !== 0 ? [`${place} < ${rowBlock}u`] : []),
      ...(rows % (hasSums ? rowBlock : teams) === 0 ? [] : [`${counted} < ${rows}u`]),
    ]
    this.rowIsInside = conditions.length > 0 ? code.let(conditions.join(' && ')) : undefined
    const row = conditions.length > 0 ? code.let(`min(${counted}, ${rows - 1}u)`) : counted
    this.writeRow(row, vectors)
    for (const { value, total } of narrowSums)
      code.push(`${total} += ${masked(this.values.single(value), '0f', this.rowIsInside)};`)
    if (iterations > 1) {
      // The next row overwrites what invocations share, so all of them have to be done reading.
      if (this.shared.isUsed) code.push('workgroupBarrier();')
      code.push('}')
    }
    this.columnSums.finish(vectors)
    for (const { total, ...sum } of narrowSums) {
      const whole =
        teams === 1
          ? total
          : this.reductions.across(code.let(`select(0f, ${total}, member == 0u)`), 'sum', size)
      const target = this.memory.name(sum.buffer, true)
      code.push(
        `if (worker == 0u && chunk == 0u) { ${target}[${this.memory.columnSumStart(sum)}] = ${whole}; }`,
      )
    }
  }

  /** All passes over a row. */
  private writeRow(row: string, vectors: readonly RowVector[]): void {
    const { stores, columnSums } = this.work
    const { team } = this.plan
    this.memory.startRow(row)
    const cheap = cheapOf(this.work.values)
    const wideSums = columnSums.filter(sum => !isNarrow(sum))
    const wideStores = stores.filter(({ access }) => access.columnStride !== 0)
    const outputs = [...wideStores, ...wideSums].map(({ value }) => value)
    const last = Math.max(0, ...this.passes, ...outputs.map(value => this.firstPassAfter(value)))
    for (let pass = 0; pass <= last; pass++) {
      const results = this.writePass(pass, row, vectors)
      // Cheap values are computed again in each pass rather than kept in registers.
      for (const { known } of vectors) for (const value of known.keys()) if (cheap[value]) known.delete(value)
      for (const { index, name, total } of results) {
        const inVector = this.reductions.withinVector(name, total)
        this.values.setSingle(index, this.reductions.across(inVector, name, team))
      }
    }
    if (inPlaceRowAllocations(this.work).size > 0) this.code.push('storageBarrier();')
    this.storeSingles(row, [
      ...(team > 1 ? ['member == 0u'] : []),
      ...(this.plan.chunks > 1 ? ['chunk == 0u'] : []),
      ...(this.rowIsInside ? [this.rowIsInside] : []),
    ])
  }

  /** One pass over a row. Returns the reductions that it makes, each with the variable of an invocation's share. */
  private writePass(pass: number, row: string, vectors: readonly RowVector[]) {
    const { code, reductions } = this
    const { values, stores, columnSums, columns } = this.work
    const { lanes, team } = this.plan
    values.forEach((value, i) => {
      if (value.extent === 'row' && !isReduction(value) && this.passes[i] === pass)
        this.values.computeSingle(i, row)
    })
    const results = values.flatMap(({ operation, inputs }, i) =>
      operation.kind === 'reduce' && this.passes[i] === pass
        ? [
            {
              index: i,
              input: inputs[0],
              name: operation.name,
              total: code.variable(reductions.identity(operation.name)),
            },
          ]
        : [],
    )
    const isReady = ({ value }: { readonly value: number }) => this.firstPassAfter(value) === pass
    const stored = stores.filter(store => store.access.columnStride !== 0 && isReady(store))
    const summed = columnSums.filter(sum => !isNarrow(sum) && isReady(sum))
    const needed = [...results.map(({ input }) => input), ...[...stored, ...summed].map(({ value }) => value)]
    if (needed.length === 0) return results
    const finish = (vector: RowVector) => {
      for (const { input, name, total } of results) {
        const value = masked(this.values.element(vector, input), reductions.identity(name), vector.isInside)
        code.push(`${total} = ${reductions.combine(name, total, value, lanes)};`)
      }
      for (const sum of summed) {
        const zero = splat('0f', 'float32', lanes)
        this.columnSums.add(
          vector,
          sum,
          masked(this.values.element(vector, sum.value), zero, this.rowIsInside),
        )
      }
      for (const store of stored) this.store(vector, store)
    }
    // All loads come first, so that an invocation waits for memory once.
    for (const vector of vectors) this.values.load(vector, needed)
    for (const vector of vectors) this.values.computeVector(vector, needed)
    for (const vector of vectors) finish(vector)
    const rest = columns / lanes - vectors.length * team
    if (this.plan.chunks > 1 || rest <= 0) return results
    const unit = `unit${pass}`
    const sums = results.flatMap(({ name, total }) => (name === 'sum' ? [total] : []))
    const levels = sums.length > 0 ? levelsOf(rest / team) : []
    reductions.declareLevels(sums, levels)
    code.push(
      `for (var ${unit} = ${vectors.length * team}u + member; ${unit} < ${columns / lanes}u; ${unit} += ${team}u) {`,
    )
    const vector = vectorAt(unit)
    this.values.computeVector(vector, needed)
    finish(vector)
    reductions.carryLevels(sums, levels, `(${unit} / ${team}u - ${vectors.length - 1}u)`)
    code.push('}'.repeat(levels.length + 1))
    reductions.addLevels(sums, levels)
    return results
  }

  /** The first pass that may use a value. */
  private firstPassAfter(value: number): number {
    return this.passes[value] + (isReduction(this.work.values[value]) ? 1 : 0)
  }

  private store(vector: RowVector, { value, access }: RowProgram['stores'][number]): void {
    const conditions = [this.rowIsInside, vector.isInside].filter(condition => condition !== undefined)
    const { dtype } = this.work.values[value]
    this.memory.storeVector(vector, access, this.values.element(vector, value), dtype, conditions)
  }

  /** Stores what each row has one of, in the invocation for which the conditions hold. */
  private storeSingles(row: string, conditions: readonly string[]): void {
    const stores = this.work.stores.filter(({ access }) => access.columnStride === 0)
    if (stores.length === 0) return
    if (conditions.length > 0) this.code.push(`if (${conditions.join(' && ')}) {`)
    for (const { value, access } of stores)
      this.memory.storeSingle(access, row, this.values.single(value), this.work.values[value].dtype)
    if (conditions.length > 0) this.code.push('}')
  }
}

const vectorAt = (unit: string): RowVector => ({
  unit,
  isInside: undefined,
  known: new Map(),
  sums: undefined,
})

/** A value where a condition holds, if there is one. */
const masked = (value: string, otherwise: string, condition: string | undefined): string =>
  condition ? `select(${otherwise}, ${value}, ${condition})` : value

/** Operations that most kernels have, and that say little about one. */
const plainNames: ReadonlySet<string> = new Set<UnaryName | BinaryName>([
  'add',
  'subtract',
  'multiply',
  'negate',
  'detach',
  'equal',
  'less',
  'lessEqual',
])
