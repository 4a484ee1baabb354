import { costOf } from '../../../compiler/cost.ts'
import { hash } from '../../../cpu/kernels/hash.ts'
import type { BinaryName, DType, UnaryName } from '../../../graph/operations.ts'
import type { Access, Buffer, RowProgram, RowValue } from '../../../compiler/program.ts'
import { Elementwise, type Lanes, valueType } from '../elementwise.ts'
import { Bindings, type Dispatch, type Target, type TypeOf, bytesOf, shader } from '../kernel.ts'
import { type RowPlan, pinnedRoots, vectorRoots } from './row-plan.ts'
import { cheapOf } from '../../passes/row-programs.ts'
import { isReduction, passesOf } from '../../../compiler/row-values.ts'

/** A row program is done so many times, each time on other memory. */
export interface Batch {
  readonly count: number
  /** Where the first has its elements of a buffer, and each of the others after it. What is not here is the same for all. */
  readonly steps: ReadonlyMap<Buffer, { readonly start: number; readonly stride: number }>
}

const single: Batch = { count: 1, steps: new Map() }

/** The kernel of a row program that has been planned. */
export function rowKernel(
  work: RowProgram,
  plan: RowPlan,
  typeOf: TypeOf,
  target: Target,
  batch = single,
): Dispatch {
  return new RowWriter(work, plan, typeOf, target, batch).write()
}

/**
 * Sums over more steps than `plainSteps` go by levels, as on the CPU: a sum of `sumSteps` steps, or of as many sums of the
 * level below, is added to the level above and starts again from zero.
 */
const plainSteps = 128
const sumSteps = 32

/** The levels above the first for a sum of so many steps: what their sums are called, and how many steps fill one below. */
function levelsOf(all: number): { name: string; steps: number }[] {
  const levels: { name: string; steps: number }[] = []
  if (all <= plainSteps) return levels
  for (let steps = sumSteps; steps < all; steps *= sumSteps)
    levels.push({ name: `_${levels.length + 1}`, steps })
  return levels
}

/** A vector of the row at hand. */
interface Part {
  /** Number of the vector in the row, as WGSL; one that exists even where isInside says no. */
  readonly unit: string
  /** A condition in WGSL, where the vector may lie beyond the row's end. */
  readonly isInside: string | undefined
  /** Values computed for it, by their number. */
  readonly known: Map<number, string>
  /** Where the sums of its columns grow; undefined: in memory. */
  readonly sums: readonly string[] | undefined
}

class RowWriter {
  private readonly work: RowProgram
  private readonly plan: RowPlan
  private readonly typeOf: TypeOf
  private readonly target: Target
  private readonly batch: Batch
  /** The workgroup's number among those of one of the batch. */
  private readonly group: string
  private readonly bindings: Bindings
  private readonly elementwise = new Elementwise()
  private readonly passes: readonly number[]
  private readonly vectors: ReadonlySet<Buffer>
  private readonly lines: string[] = []
  /** Memory that the workgroup shares, by name. */
  private readonly shared = new Map<string, string>()
  private shares = 0
  private names = 0
  /** Values of which the row or the program has one. */
  private readonly singles = new Map<number, string>()
  /** Where the row starts in each operand. */
  private readonly bases = new Map<Access, string>()
  /** Addresses' parts, by their expressions. */
  private readonly indices = new Map<string, string>()
  /** A condition, where a team may have no row. */
  private rowIsInside: string | undefined

  constructor(work: RowProgram, plan: RowPlan, typeOf: TypeOf, target: Target, batch: Batch) {
    this.work = work
    this.batch = batch
    this.group = batch.count > 1 ? 'part' : 'group'
    this.plan = plan
    this.typeOf = typeOf
    this.target = target
    this.bindings = new Bindings(typeOf)
    this.passes = passesOf(work.values)
    this.vectors = vectorRoots(work, plan.lanes)
  }

  write(): Dispatch {
    const { plan, work, target, bindings, batch } = this
    if (batch.count > 1)
      this.push(`let instance = group / ${plan.workgroups}u;`, `let part = group % ${plan.workgroups}u;`)
    if (plan.isFlat) this.writeFlat()
    else this.writeTeams()
    const { size } = plan
    const workgroups = plan.workgroups * batch.count
    const declarations = [...this.shared.values(), this.elementwise.declarations].join('\n')
    const body = this.lines.join('\n')
    const code = shader({ bindings, target, size, workgroups, declarations, body })
    const { bytes } = costOf(work, buffer => bytesOf[this.typeOf(buffer)])
    return {
      kernel: { name: `${this.description} ${hash(code)}`, code },
      buffers: bindings.buffers,
      writes: bindings.writes,
      workgroups,
      flops: 0,
      bytes,
    }
  }

  /** The columns, and what takes longest. */
  private get description(): string {
    const { values, columns, columnSums } = this.work
    const names = values.flatMap(({ operation }) =>
      'name' in operation && !plainNames.has(operation.name) ? [operation.name] : [],
    )
    return ['rows', columns, ...new Set(names), ...(columnSums.length > 0 ? ['columns'] : [])].join(' ')
  }

  /** An invocation for each vector of each row. */
  private writeFlat(): void {
    const { rows, columns, values, stores } = this.work
    const { size, lanes } = this.plan
    const units = columns / lanes
    this.push(`let index = ${this.group} * ${size}u + thread;`, `if (index >= ${rows * units}u) { return; }`)
    const row = rows === 1 ? '0u' : units === 1 ? 'index' : this.let(`index / ${units}u`)
    const unit = rows === 1 ? 'index' : units === 1 ? '0u' : this.let(`index % ${units}u`)
    this.placeRow(row)
    values.forEach((value, i) => {
      if (value.extent !== 'element') this.computeSingle(i, row)
    })
    const part = { unit, isInside: undefined, known: new Map<number, string>(), sums: undefined }
    const wide = stores.filter(({ access }) => access.columnStride !== 0)
    this.computePart(
      part,
      wide.map(({ value }) => value),
    )
    for (const { value, access } of wide) this.storePart(part, value, access)
    this.storeSingles(row, units === 1 ? [] : [`${unit} == 0u`])
  }

  /** Teams of invocations that go through rows together. */
  private writeTeams(): void {
    const { rows, rowBlock, values, columnSums } = this.work
    const { size, team, chunks, parts, lanes } = this.plan
    const teams = size / team
    const hasSums = columnSums.length > 0
    const usesSubgroups = this.target.subgroups && (values.some(isReduction) || columnSums.some(isNarrow))
    this.push(
      // Neighbours in a subgroup are to be neighbours in a team.
      `let worker = ${usesSubgroups ? 'subgroup * subgroup_size + lane' : 'thread'};`,
      `let member = ${team === 1 ? '0u' : `worker % ${team}u`};`,
      `let team = ${teams === 1 ? '0u' : `worker / ${team}u`};`,
      `let block = ${chunks === 1 ? this.group : `${this.group} / ${chunks}u`};`,
      `let chunk = ${chunks === 1 ? '0u' : `${this.group} % ${chunks}u`};`,
    )
    values.forEach((value, i) => {
      if (value.extent === 'uniform') this.computeSingle(i, '0u')
    })
    const wideSums = columnSums.filter(sum => !isNarrow(sum))
    const sums = Array.from({ length: parts }, () =>
      wideSums.map(() => this.variable(this.splat('0f', 'float32', lanes))),
    )
    const narrowSums = columnSums.filter(isNarrow).map(sum => ({ ...sum, total: this.variable('0f') }))
    const units = this.work.columns / lanes
    const partList = sums.map((partSums, i): Part => {
      const unit = this.let(`chunk * ${team}u + ${i * team}u + member`)
      const isWhole = (Math.max(i, chunks - 1) + 1) * team <= units
      return {
        unit: isWhole ? unit : this.let(`min(${unit}, ${units - 1}u)`),
        isInside: isWhole ? undefined : this.let(`${unit} < ${units}u`),
        known: new Map(),
        sums: partSums,
      }
    })
    const iterations = hasSums ? Math.ceil(rowBlock / teams) : 1
    if (iterations > 1) this.push(`for (var step = 0u; step < ${iterations}u; step++) {`)
    const place = iterations > 1 ? this.let(`step * ${teams}u + team`) : 'team'
    const counted = this.let(`block * ${hasSums ? rowBlock : teams}u + ${place}`)
    const conditions = [
      ...(hasSums && rowBlock % teams !== 0 ? [`${place} < ${rowBlock}u`] : []),
      ...(rows % (hasSums ? rowBlock : teams) === 0 ? [] : [`${counted} < ${rows}u`]),
    ]
    this.rowIsInside = conditions.length > 0 ? this.let(conditions.join(' && ')) : undefined
    const row = conditions.length > 0 ? this.let(`min(${counted}, ${rows - 1}u)`) : counted
    this.writeRow(row, partList)
    for (const { value, total } of narrowSums)
      this.push(`${total} += ${this.masked(this.scalar(value), '0f', this.rowIsInside)};`)
    if (iterations > 1) {
      // What was shared for this row is not to be overwritten while it is read.
      if (this.shared.size > 0) this.push('workgroupBarrier();')
      this.push('}')
    }
    wideSums.forEach((sum, i) => this.finishWideSum(sum, partList, i))
    for (const { total, ...sum } of narrowSums) {
      const whole =
        teams === 1 ? total : this.across(this.let(`select(0f, ${total}, member == 0u)`), 'sum', size)
      const target = this.name(sum.buffer, true)
      this.push(`if (worker == 0u && chunk == 0u) { ${target}[${this.sumsStart(sum)}] = ${whole}; }`)
    }
  }

  /** All passes over a row. */
  private writeRow(row: string, parts: readonly Part[]): void {
    const { values, stores, columnSums, columns } = this.work
    const { lanes, team } = this.plan
    this.placeRow(row)
    const cheap = cheapOf(values)
    const rest = columns / lanes - parts.length * team
    const wideSums = columnSums.filter(sum => !isNarrow(sum))
    const outputs = [
      ...stores.filter(({ access }) => access.columnStride !== 0).map(({ value }) => value),
      ...wideSums.map(({ value }) => value),
    ]
    const last = Math.max(0, ...this.passes, ...outputs.map(value => this.ready(value)))
    for (let pass = 0; pass <= last; pass++) {
      values.forEach((value, i) => {
        if (value.extent === 'row' && !isReduction(value) && this.passes[i] === pass)
          this.computeSingle(i, row)
      })
      const reductions = values.flatMap(({ operation, inputs }, i) =>
        operation.kind === 'reduce' && this.passes[i] === pass
          ? [
              {
                index: i,
                input: inputs[0],
                name: operation.name,
                total: this.variable(this.identity(operation.name)),
              },
            ]
          : [],
      )
      const stored = stores.filter(
        ({ access, value }) => access.columnStride !== 0 && this.ready(value) === pass,
      )
      const summed = wideSums.filter(({ value }) => this.ready(value) === pass)
      const needed = [
        ...reductions.map(({ input }) => input),
        ...stored.map(({ value }) => value),
        ...summed.map(({ value }) => value),
      ]
      const finish = (part: Part) => {
        for (const { input, name, total } of reductions) {
          const value = this.masked(this.element(part, input), this.identity(name), part.isInside)
          this.push(`${total} = ${this.joined(name, total, value, lanes)};`)
        }
        for (const sum of summed) this.addToSum(part, sum, wideSums.indexOf(sum))
        for (const { value, access } of stored) this.storePart(part, value, access)
      }
      if (needed.length > 0) {
        // All that is loaded comes first, so that memory is waited for once.
        for (const part of parts) this.loadPart(part, needed)
        for (const part of parts) this.computePart(part, needed)
        for (const part of parts) finish(part)
        if (this.plan.chunks === 1 && rest > 0) {
          const unit = `unit${pass}`
          const longSums = reductions.filter(({ name }) => name === 'sum')
          const levels = longSums.length > 0 ? levelsOf(rest / team) : []
          for (const { total } of longSums)
            for (const { name } of levels)
              this.push(`var ${total}${name} = ${this.splat('0f', 'float32', lanes)};`)
          this.push(
            `for (var ${unit} = ${parts.length * team}u + member; ${unit} < ${columns / lanes}u; ${unit} += ${team}u) {`,
          )
          const part = { unit, isInside: undefined, known: new Map<number, string>(), sums: undefined }
          this.computePart(part, needed)
          finish(part)
          const turn = `(${unit} / ${team}u - ${parts.length - 1}u)`
          for (const [level, { name, steps }] of levels.entries()) {
            this.push(`if (${turn} % ${steps}u == 0u) {`)
            for (const { total } of longSums) {
              const below = level === 0 ? total : `${total}${levels[level - 1].name}`
              this.push(`${total}${name} += ${below};`, `${below} = ${this.splat('0f', 'float32', lanes)};`)
            }
          }
          this.push('}'.repeat(levels.length + 1))
          for (const { total } of longSums)
            for (const { name } of levels) this.push(`${total} += ${total}${name};`)
        }
      }
      // The compiler is not to keep in registers what it can compute anew.
      for (const { known } of parts) for (const value of known.keys()) if (cheap[value]) known.delete(value)
      for (const { index, name, total } of reductions)
        this.singles.set(index, this.across(this.withinVector(name, total), name, team))
    }
    if (pinnedRoots(this.work).size > 0) this.push('storageBarrier();')
    this.storeSingles(row, [
      ...(team > 1 ? ['member == 0u'] : []),
      ...(this.plan.chunks > 1 ? ['chunk == 0u'] : []),
      ...(this.rowIsInside ? [this.rowIsInside] : []),
    ])
  }

  private push(...lines: string[]): void {
    this.lines.push(...lines)
  }

  /** Computes an expression once; returns its name. */
  private let(expression: string): string {
    if (/^v\d+$/.test(expression)) return expression
    const name = `v${this.names++}`
    this.push(`let ${name} = ${expression};`)
    return name
  }

  private variable(initial: string): string {
    const name = `v${this.names++}`
    this.push(`var ${name} = ${initial};`)
    return name
  }

  /** A part of an address, which others may share. */
  private index(expression: string): string {
    const known = this.indices.get(expression) ?? this.let(expression)
    this.indices.set(expression, known)
    return known
  }

  private lanesIn({ allocation }: Buffer): Lanes {
    return this.vectors.has(allocation) ? this.plan.lanes : 1
  }

  private name(buffer: Buffer, writes = false): string {
    return this.bindings.name(buffer, { writes, lanes: this.lanesIn(buffer) })
  }

  /** The first pass that may use a value. */
  private ready(value: number): number {
    return this.passes[value] + (isReduction(this.work.values[value]) ? 1 : 0)
  }

  private splat(scalar: string, dtype: DType, lanes: Lanes): string {
    return lanes === 1 ? scalar : `${valueType(dtype, lanes)}(${scalar})`
  }

  private identity(name: 'sum' | 'max'): string {
    const { lanes } = this.plan
    return this.splat(name === 'sum' ? '0f' : this.elementwise.infinity(false), 'float32', lanes)
  }

  private joined(name: 'sum' | 'max', a: string, b: string, lanes: Lanes): string {
    return this.elementwise.binary(name === 'sum' ? 'add' : 'maximum', a, b, 'float32', lanes)
  }

  /** A value where a condition holds, if there is one. */
  private masked(value: string, otherwise: string, condition: string | undefined): string {
    return condition ? `select(${otherwise}, ${value}, ${condition})` : value
  }

  /** Finds out where the row starts in each operand of which it has elements. */
  private placeRow(row: string): void {
    for (const { operation } of this.work.values)
      if (operation.kind === 'load' && operation.access.columnStride !== 0)
        this.bases.set(operation.access, this.base(operation.access, row, this.unitOf(operation.access)))
    for (const { access } of this.work.stores)
      if (access.columnStride !== 0) this.bases.set(access, this.base(access, row, this.unitOf(access)))
  }

  private unitOf({ buffer }: Access): number {
    return buffer ? this.lanesIn(buffer) : 1
  }

  /** Where a row starts in an operand, counted in so many elements. */
  private base(access: Access, row: string, unit: number): string {
    const { offset, rowDims, gather } = access
    const terms = [...(offset > 0 ? [`${offset / unit}u`] : []), ...this.instanceStart(access.buffer, unit)]
    if (gather) {
      const index = this.loadSingle(gather.indices, row, 'int32')
      const clamped = this.index(`u32(clamp(${index}, 0, ${gather.limit - 1}))`)
      terms.push(`${clamped} * ${gather.rowStride / unit}u`)
    }
    let rest = row
    rowDims.toReversed().forEach(([extent, stride], i) => {
      const isOutermost = i === rowDims.length - 1
      if (stride !== 0) {
        const index = isOutermost ? rest : this.index(`${rest} % ${extent}u`)
        terms.push(stride === unit ? index : `${index} * ${stride / unit}u`)
      }
      if (!isOutermost) rest = this.index(`${rest} / ${extent}u`)
    })
    return terms.length === 0 ? '0u' : this.index(terms.join(' + '))
  }

  /** Where one of a batch starts in a buffer, counted in so many elements; nothing where all have the same. */
  private instanceStart(buffer: Buffer | undefined, unit: number): string[] {
    const step = buffer && this.batch.steps.get(buffer.allocation)
    return step ? [`${step.start / unit}u + instance * ${step.stride / unit}u`] : []
  }

  /** Where the sums of a block's columns start, counted in vectors; or its only sum. */
  private sumsStart({ buffer, width }: RowProgram['columnSums'][number]): string {
    const lanes = width === 1 ? 1 : this.plan.lanes
    const block = width === lanes ? 'block' : `block * ${width / lanes}u`
    return [block, ...this.instanceStart(buffer, lanes)].join(' + ')
  }

  /** Loads what a row or the program has one of. */
  private loadSingle(access: Access, row: string, dtype: DType): string {
    const { buffer } = access
    const address = this.base(access, row, 1)
    if (!buffer) return this.index(`i32(${address})`)
    const lanes = this.lanesIn(buffer)
    const place = lanes === 1 ? `[${address}]` : `[${address} / ${lanes}u][${address} % ${lanes}u]`
    return this.let(this.converted(`${this.name(buffer)}${place}`, buffer, dtype, 1))
  }

  private computeSingle(index: number, row: string): void {
    const { operation, inputs, dtype } = this.work.values[index]
    const value =
      operation.kind === 'load'
        ? this.loadSingle(operation.access, row, dtype)
        : operation.kind === 'constant'
          ? this.let(this.elementwise.constant(operation.value, dtype))
          : this.let(
              this.compute(
                operation,
                inputs,
                inputs.map(input => this.scalar(input)),
                1,
              ),
            )
    this.singles.set(index, value)
  }

  private scalar(value: number): string {
    const name = this.singles.get(value)
    if (name === undefined) throw new Error(`a row kernel uses value ${value} before it is computed`)
    return name
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
      default:
        throw new Error(`${operation.kind} is not computed from operands`)
    }
  }

  /** What was loaded from memory, as a value. */
  private converted(loaded: string, buffer: Buffer, dtype: DType, lanes: Lanes): string {
    if (this.bindings.type(buffer) === 'f16') return `${valueType('float32', lanes)}(${loaded})`
    return dtype === 'bool' ? `${loaded} != ${this.splat('0', 'int32', lanes)}` : loaded
  }

  /** A value as it is stored. */
  private stored(value: string, buffer: Buffer, dtype: DType, lanes: Lanes): string {
    if (dtype === 'bool')
      return `select(${this.splat('0', 'int32', lanes)}, ${this.splat('-1', 'int32', lanes)}, ${value})`
    if (this.bindings.type(buffer) !== 'f16') return value
    const half = lanes === 1 ? 'f16' : `vec${lanes}<f16>`
    const limit = (bound: string) => this.splat(bound, 'float32', lanes)
    return `${half}(clamp(${value}, ${limit('-65504f')}, ${limit('65504f')}))`
  }

  /** The name of a value for the elements of a part. */
  private element(part: Part, value: number): string {
    const { extent, dtype } = this.work.values[value]
    if (extent !== 'element') return this.splat(this.scalar(value), dtype, this.plan.lanes)
    const name = part.known.get(value)
    if (name === undefined) throw new Error(`a row kernel uses value ${value} before it is computed`)
    return name
  }

  /** The values to be computed for a part, operands first. */
  private missing(part: Part, needed: readonly number[]): number[] {
    const found = new Set<number>()
    const visit = (value: number) => {
      const { extent, inputs } = this.work.values[value]
      if (extent !== 'element' || part.known.has(value) || found.has(value)) return
      inputs.forEach(visit)
      found.add(value)
    }
    needed.forEach(visit)
    return [...found]
  }

  private loadPart(part: Part, needed: readonly number[]): void {
    for (const value of this.missing(part, needed)) {
      const { operation, dtype } = this.work.values[value]
      if (operation.kind === 'load') part.known.set(value, this.loadVector(part, operation.access, dtype))
    }
  }

  private computePart(part: Part, needed: readonly number[]): void {
    this.loadPart(part, needed)
    for (const value of this.missing(part, needed)) {
      const { operation, inputs } = this.work.values[value]
      const operands = inputs.map(input => this.element(part, input))
      part.known.set(value, this.let(this.compute(operation, inputs, operands, this.plan.lanes)))
    }
  }

  private loadVector(part: Part, access: Access, dtype: DType): string {
    const { lanes } = this.plan
    const { buffer, columnStride } = access
    const base = this.bases.get(access) ?? '0u'
    if (!buffer) {
      const first = `i32(${base} + ${part.unit} * ${lanes * columnStride}u)`
      if (lanes === 1) return this.let(first)
      const rest = Array.from({ length: lanes }, (_, lane) => lane * columnStride).join(', ')
      return this.let(`${first} + vec${lanes}<i32>(${rest})`)
    }
    const name = this.name(buffer)
    if (this.lanesIn(buffer) > 1)
      return this.let(this.converted(`${name}[${base} + ${part.unit}]`, buffer, dtype, lanes))
    const first = this.firstAddress(part, base, columnStride)
    if (lanes === 1) return this.let(this.converted(`${name}[${first}]`, buffer, dtype, 1))
    const elements = Array.from({ length: lanes }, (_, lane) => `${name}[${first} + ${lane * columnStride}u]`)
    const vector = `vec${lanes}<${this.bindings.type(buffer)}>(${elements.join(', ')})`
    return this.let(this.converted(vector, buffer, dtype, lanes))
  }

  private firstAddress({ unit }: Part, base: string, columnStride: number): string {
    const step = this.plan.lanes * columnStride
    const offset = step === 1 ? unit : `${unit} * ${step}u`
    return this.let(base === '0u' ? offset : `${base} + ${offset}`)
  }

  private storePart(part: Part, value: number, access: Access): void {
    const { lanes } = this.plan
    const { buffer, columnStride } = access
    if (!buffer) throw new Error('a row program stores to no memory')
    const name = this.name(buffer, true)
    const base = this.bases.get(access) ?? '0u'
    const stored = this.let(
      this.stored(this.element(part, value), buffer, this.work.values[value].dtype, lanes),
    )
    const guard = [this.rowIsInside, part.isInside].filter(condition => condition !== undefined).join(' && ')
    if (guard) this.push(`if (${guard}) {`)
    if (this.lanesIn(buffer) > 1) this.push(`${name}[${base} + ${part.unit}] = ${stored};`)
    else {
      const first = this.firstAddress(part, base, columnStride)
      for (let lane = 0; lane < lanes; lane++) {
        const element = lanes === 1 ? stored : `${stored}[${lane}]`
        this.push(`${name}[${first} + ${lane * columnStride}u] = ${element};`)
      }
    }
    if (guard) this.push('}')
  }

  /** Stores what each row has one of, by the invocation for which the conditions hold. */
  private storeSingles(row: string, conditions: readonly string[]): void {
    const stores = this.work.stores.filter(({ access }) => access.columnStride === 0)
    if (stores.length === 0) return
    if (conditions.length > 0) this.push(`if (${conditions.join(' && ')}) {`)
    for (const { value, access } of stores) {
      const { buffer } = access
      if (!buffer) throw new Error('a row program stores to no memory')
      const stored = this.stored(this.scalar(value), buffer, this.work.values[value].dtype, 1)
      // Not shared with what is outside of the condition.
      const known = new Map(this.indices)
      const address = this.base(access, row, 1)
      this.indices.clear()
      for (const [expression, name] of known) this.indices.set(expression, name)
      this.push(`${this.name(buffer, true)}[${address}] = ${stored};`)
    }
    if (conditions.length > 0) this.push('}')
  }

  /** Adds a part's elements to the sums of their columns. */
  private addToSum(part: Part, sum: RowProgram['columnSums'][number], index: number): void {
    const { lanes } = this.plan
    const value = this.masked(
      this.element(part, sum.value),
      this.splat('0f', 'float32', lanes),
      this.rowIsInside,
    )
    if (part.sums) {
      this.push(`${part.sums[index]} += ${value};`)
      return
    }
    // A row too long for registers: its columns' sums grow in memory, each by the same invocation all along.
    const name = this.name(sum.buffer, true)
    const width = this.lanesIn(sum.buffer)
    for (let lane = 0; lane < lanes / width; lane++) {
      const address = this.let(`(${this.sumsStart(sum)} + ${part.unit}) * ${lanes / width}u + ${lane}u`)
      const added = width === lanes ? value : `(${value})[${lane}]`
      const zero = this.splat('0f', 'float32', width)
      const before = this.work.rowBlock > 1 ? `select(${name}[${address}], ${zero}, step == 0u)` : zero
      this.push(`${name}[${address}] = ${before} + ${added};`)
    }
  }

  /** Adds up what the teams of a workgroup have summed, and stores it. */
  private finishWideSum(sum: RowProgram['columnSums'][number], parts: readonly Part[], index: number): void {
    const { size, team, lanes } = this.plan
    const teams = size / team
    const name = this.name(sum.buffer, true)
    const type = valueType('float32', lanes)
    const width = this.lanesIn(sum.buffer)
    if (teams > 1) this.shared.set('columns', `var<workgroup> columns: array<${type}, ${size}>;`)
    for (const part of parts) {
      const own = part.sums?.[index] ?? ''
      let total = own
      if (teams > 1) {
        this.push('workgroupBarrier();', `columns[worker] = ${own};`, 'workgroupBarrier();')
        total = this.variable(`columns[member]`)
        this.push(
          `for (var other = 1u; other < ${teams}u; other++) { ${total} += columns[other * ${team}u + member]; }`,
        )
      }
      const conditions = ['team == 0u', ...(part.isInside ? [part.isInside] : [])]
      const place = this.let(`${this.sumsStart(sum)} + ${part.unit}`)
      this.push(`if (${conditions.join(' && ')}) {`)
      if (width === lanes) this.push(`${name}[${place}] = ${total};`)
      else
        for (let lane = 0; lane < lanes; lane++)
          this.push(`${name}[${place} * ${lanes}u + ${lane}u] = ${total}[${lane}];`)
      this.push('}')
    }
  }

  /** A scalar out of a vector. */
  private withinVector(name: 'sum' | 'max', vector: string): string {
    const { lanes } = this.plan
    if (lanes === 1) return vector
    const elements = Array.from({ length: lanes }, (_, lane) => `${vector}[${lane}]`)
    return elements.reduce((total, element) => this.let(this.joined(name, total, element, 1)))
  }

  /** Joins the values of so many neighbouring invocations: a team, or the workgroup. Every one of them gets the result. */
  private across(value: string, name: 'sum' | 'max', width: number): string {
    const { size, team } = this.plan
    const { subgroups } = this.target
    if (width === 1) return value
    const [member, first] = width === team ? ['member', 'team'] : ['worker', '0u']
    const join = (a: string, b: string) => this.joined(name, a, b, 1)
    if (!subgroups) {
      const shared = this.share(size)
      this.push(`${shared}[worker] = ${value};`)
      for (let half = width / 2; half >= 1; half /= 2) {
        const joined = join(`${shared}[worker]`, `${shared}[worker + ${half}u]`)
        this.push('workgroupBarrier();', `if (${member} < ${half}u) { ${shared}[worker] = ${joined}; }`)
      }
      this.push('workgroupBarrier();')
      return this.let(`${shared}[worker - ${member}]`)
    }
    const total = this.variable(value)
    const { smallest, largest } = subgroups
    const isKnown = width <= smallest || smallest === largest
    const span = isKnown ? `${Math.min(width, smallest)}u` : this.let(`min(subgroup_size, ${width}u)`)
    if (isKnown) {
      for (let mask = 1; mask < Math.min(width, smallest); mask *= 2)
        this.push(`${total} = ${join(total, `subgroupShuffleXor(${total}, ${mask}u)`)};`)
    } else {
      const joined = join(total, `subgroupShuffleXor(${total}, mask)`)
      this.push(`for (var mask = 1u; mask < ${span}; mask *= 2u) { ${total} = ${joined}; }`)
    }
    if (width <= smallest) return total
    const shared = this.share(size / smallest)
    const count = this.let(`${width}u / ${span}`)
    const start = this.let(`${first} * ${count}`)
    this.push(
      `if (lane % ${span} == 0u) { ${shared}[worker / ${span}] = ${total}; }`,
      'workgroupBarrier();',
      `${total} = ${shared}[${start}];`,
      `for (var other = 1u; other < ${count}; other++) { ${total} = ${join(total, `${shared}[${start} + other]`)}; }`,
    )
    return total
  }

  /** Floats that the workgroup shares: not those of the time before, which may still be read. */
  private share(count: number): string {
    const name = `shared${this.shares++ % 2}`
    this.shared.set(name, `var<workgroup> ${name}: array<f32, ${count}>;`)
    return name
  }
}

/** Operations that are in most kernels, and say little. */
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

const isNarrow = ({ width }: { readonly width: number }): boolean => width === 1
