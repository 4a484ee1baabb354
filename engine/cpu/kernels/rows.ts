import type { DType } from '../../graph/operations.ts'
import type { Access, Buffer, RowProgram, RowValue } from '../../compiler/program.ts'
import { isReduction, passesOf } from '../../compiler/row-values.ts'
import { Code, Elementwise, constant } from './elementwise.ts'
import { hash } from './hash.ts'
import type { Kernel } from './kernel.ts'

/** Where an operand's first element is. */
export interface Operand {
  readonly buffer: Buffer
  readonly offset: number
}

const bytes = 4
const lanes = 4
/** Vectors done side by side: neighbours that the revectorizer can join. */
const side = 2
const step = side * lanes * bytes

/** Reductions leave their sums here, beside each other, before the lanes are added up. */
const sumBytes = side * lanes * bytes

type Loop = 'pairs' | 'vector' | 'lane'

/**
 * Sums over more steps than `plainSteps` go by levels, so that their error grows with the logarithm of a row's length
 * and not with the length: a sum of `sumSteps` steps, or of as many sums of the level below, is added to the level
 * above and starts again from zero.
 */
const plainSteps = 128
const sumSteps = 32

/**
 * A kernel for a row program: one item is a block of rows; each row is passed over once for every
 * reduction that later values wait for, and once more. Its operands are those that rowOperands lists.
 */
export function rowKernel(program: RowProgram, fma: boolean): Kernel {
  const { wat, scratchBytes } = new RowWriter(program, fma).write()
  const name = `rows.${hash(wat)}`
  const items = Math.ceil(program.rows / program.rowBlock)
  return { name, wat: wat.replaceAll('$KERNEL', `$${name}`), items, scratchBytes }
}

/** A row program's accesses, in the order of its kernel's arguments. */
function accessesOf({ values, stores }: RowProgram): Access[] {
  const loads = values.flatMap(({ operation }) => {
    if (operation.kind !== 'load') return []
    const { access } = operation
    return access.gather ? [access, access.gather.indices] : [access]
  })
  return [...loads, ...stores.map(({ access }) => access)]
}

/** A row program's operands, in the order of its kernel's arguments. */
export function rowOperands(program: RowProgram): Operand[] {
  const accesses = accessesOf(program).flatMap(({ buffer, offset }) => (buffer ? [{ buffer, offset }] : []))
  return [...accesses, ...program.columnSums.map(({ buffer }) => ({ buffer, offset: 0 }))]
}

/** A text that is the same for programs that have the same kernel: all of them but where their operands are. */
export function rowKey({ rows, columns, rowBlock, values, stores, columnSums }: RowProgram): string {
  const accessKey = ({ buffer, offset, rowDims, columnStride, gather }: Access): string => {
    const indices = gather ? `${accessKey(gather.indices)} ${gather.rowStride} ${gather.limit}` : ''
    return `${buffer ? '' : offset}[${rowDims.join(';')}]${columnStride}{${indices}}`
  }
  const valueKey = ({ operation, inputs, extent, dtype }: RowValue): string => {
    let what = 'name' in operation ? operation.name : ''
    if (operation.kind === 'load') what = accessKey(operation.access)
    if (operation.kind === 'constant') what = Object.is(operation.value, -0) ? '-0' : `${operation.value}`
    return `${operation.kind} ${what} ${inputs.join()} ${extent} ${dtype}`
  }
  return [
    `${rows} ${columns} ${rowBlock}`,
    ...values.map(valueKey),
    ...stores.map(({ value, access }) => `${value}>${accessKey(access)}`),
    ...columnSums.map(({ value, width }) => `${value}+${width}`),
  ].join('\n')
}

class RowWriter {
  private readonly program: RowProgram
  private readonly elementwise: Elementwise
  private readonly code = new Code()
  private operands = 0
  /** In which pass over the row each value is computed. */
  private readonly passes: readonly number[]
  private readonly pointers = new Map<Access, string>()
  /** Locals of values that each row or the program has one of. */
  private readonly singles = new Map<number, string>()
  private readonly accumulators = new Map<number, string[]>()
  /** Of the sums of long rows: the accumulators of the levels above, lowest first. */
  private readonly higherSums = new Map<number, string[][]>()
  /** Of maxima: which lanes have met a NaN. */
  private readonly unordered = new Map<number, string[]>()
  /** Values kept in scratch for a later pass: at which byte. */
  private readonly spills = new Map<number, number>()
  private scratchBytes = sumBytes

  constructor(program: RowProgram, fma: boolean) {
    this.program = program
    this.elementwise = new Elementwise(fma)
    this.passes = passesOf(program.values)
  }

  write(): { wat: string; scratchBytes: number } {
    const { code, program } = this
    const { rows, rowBlock, values, stores, columnSums } = program
    this.planSpills()
    const bases = new Map<Access, string>()
    for (const access of accessesOf(program)) bases.set(access, this.address(access))
    const blockSums = columnSums.map(({ value, width }) => {
      const base = this.operand()
      const place = code.let(
        'i32',
        `(i32.add ${base} (i32.mul (local.get $item) (i32.const ${width * bytes})))`,
      )
      if (width > 1) {
        code.push(`(memory.fill ${place} (i32.const 0) (i32.const ${width * bytes}))`)
        return { value, place }
      }
      return { value, place, sum: code.local('f32') }
    })

    values.forEach((value, i) => {
      if (value.extent === 'uniform') this.single(i, value, '(i32.const 0)', bases)
    })
    const row = code.local('i32')
    const end = code.local('i32')
    code.push(
      `(local.set $${row} (i32.mul (local.get $item) (i32.const ${rowBlock})))`,
      `(local.set $${end} (i32.add (local.get $${row}) (i32.const ${rowBlock})))`,
      `(if (i32.gt_u (local.get $${end}) (i32.const ${rows})) (then (local.set $${end} (i32.const ${rows}))))`,
      `(loop $row`,
    )
    for (const [access, base] of bases) {
      if (access.columnStride !== 0)
        this.pointers.set(access, this.rowPointer(access, base, `(local.get $${row})`, bases))
    }
    const last = Math.max(
      0,
      ...this.passes,
      ...blockSums.map(({ value, sum }) => (sum ? 0 : this.ready(value))),
    )
    for (let pass = 0; pass <= last; pass++) {
      values.forEach((value, i) => {
        if (value.extent === 'row' && !this.isReduction(i) && this.passes[i] === pass)
          this.single(i, value, `(local.get $${row})`, bases)
      })
      this.writePass(pass, blockSums)
    }
    for (const { access, value } of stores) {
      if (access.columnStride !== 0) continue
      const pointer = this.rowPointer(access, bases.get(access) ?? '', `(local.get $${row})`, bases)
      const stored = values[value].dtype === 'float32' ? 'f32.store' : 'i32.store'
      code.push(`(${stored} ${pointer} ${this.singles.get(value)})`)
    }
    for (const { value, sum } of blockSums) {
      if (sum) code.push(`(local.set $${sum} (f32.add (local.get $${sum}) ${this.singles.get(value)}))`)
    }
    code.push(
      `(local.set $${row} (i32.add (local.get $${row}) (i32.const 1)))`,
      `(br_if $row (i32.lt_u (local.get $${row}) (local.get $${end}))))`,
    )
    for (const { place, sum } of blockSums) if (sum) code.push(`(f32.store ${place} (local.get $${sum}))`)
    return { wat: code.kernel('KERNEL'), scratchBytes: this.scratchBytes }
  }

  private isReduction(value: number): boolean {
    return isReduction(this.program.values[value])
  }

  /** The first pass that may use a value. */
  private ready(value: number): number {
    return this.passes[value] + (this.isReduction(value) ? 1 : 0)
  }

  private isElement(value: number): boolean {
    return this.program.values[value].extent === 'element'
  }

  /** The address that is the next argument. */
  private operand(): string {
    return this.code.let('i32', `(i32.load offset=${this.operands++ * bytes} (local.get $arguments))`)
  }

  /** The address of an access's first element; of an iota, that element. */
  private address({ buffer, offset }: Access): string {
    return buffer ? this.operand() : `(i32.const ${offset})`
  }

  /** Where a row starts: a byte address, or for an iota the number there. */
  private rowPointer(access: Access, base: string, row: string, bases: ReadonlyMap<Access, string>): string {
    const { code } = this
    const unit = access.buffer ? bytes : 1
    if (access.gather) {
      const { indices, rowStride, limit } = access.gather
      const indexAddress = this.rowPointer(indices, bases.get(indices) ?? '', row, bases)
      const index = code.let('i32', indices.buffer ? `(i32.load ${indexAddress})` : indexAddress)
      const low = code.let('i32', `(select ${index} (i32.const 0) (i32.gt_s ${index} (i32.const 0)))`)
      const clamped = `(select ${low} (i32.const ${limit - 1}) (i32.lt_s ${low} (i32.const ${limit})))`
      return code.let('i32', `(i32.add ${base} (i32.mul ${clamped} (i32.const ${rowStride * unit})))`)
    }
    let address = base
    let rest = row
    access.rowDims.toReversed().forEach(([extent, stride], i, dims) => {
      const outermost = i === dims.length - 1
      const index = outermost ? rest : `(i32.rem_u ${rest} (i32.const ${extent}))`
      if (stride !== 0) address = `(i32.add ${address} (i32.mul ${index} (i32.const ${stride * unit})))`
      if (!outermost) rest = code.let('i32', `(i32.div_u ${rest} (i32.const ${extent}))`)
    })
    return code.let('i32', address)
  }

  /** Computes a value that the program or each row has one of. */
  private single(
    index: number,
    { operation, inputs, dtype }: RowValue,
    row: string,
    bases: ReadonlyMap<Access, string>,
  ): void {
    const { code } = this
    const type = dtype === 'float32' ? 'f32' : 'i32'
    if (operation.kind === 'load') {
      const { access } = operation
      const pointer = this.rowPointer(access, bases.get(access) ?? '', row, bases)
      this.singles.set(index, access.buffer ? code.let(type, `(${type}.load ${pointer})`) : pointer)
      return
    }
    if (operation.kind === 'constant') {
      this.singles.set(
        index,
        code.let(type, `(${type}x4.extract_lane 0 ${constant(operation.value, dtype)})`),
      )
      return
    }
    const operands = inputs.map(input => code.let('v128', this.splat(input)))
    const value = this.compute(
      operation,
      operands,
      inputs.map(input => this.program.values[input].dtype),
    )
    this.singles.set(index, code.let(type, `(${type}x4.extract_lane 0 ${value})`))
  }

  private splat(value: number): string {
    const lanes = this.program.values[value].dtype === 'float32' ? 'f32x4' : 'i32x4'
    return `(${lanes}.splat ${this.singles.get(value)})`
  }

  private compute(
    operation: RowValue['operation'],
    operands: readonly string[],
    dtypes: readonly DType[],
  ): string {
    const { code, elementwise } = this
    switch (operation.kind) {
      case 'unary':
        return elementwise.unary(code, operation.name, operands[0], dtypes[0])
      case 'binary':
        return elementwise.binary(code, operation.name, operands[0], operands[1], dtypes[0])
      case 'where':
        return `(v128.bitselect ${operands[1]} ${operands[2]} ${operands[0]})`
      default:
        throw new Error(`${operation.kind} is not computed from operands`)
    }
  }

  /** Finds what is computed in one pass and, too dear to compute again, wanted in a later one. */
  private planSpills(): void {
    const { values } = this.program
    const pending: [value: number, pass: number][] = []
    const seen = new Set<string>()
    values.forEach((value, i) => {
      if (this.isReduction(i) && this.isElement(value.inputs[0]))
        pending.push([value.inputs[0], this.passes[i]])
    })
    for (const { value } of [...this.program.stores, ...this.program.columnSums])
      if (this.isElement(value)) pending.push([value, this.passes[value]])
    for (let next = pending.pop(); next; next = pending.pop()) {
      const [value, pass] = next
      const key = `${value}:${pass}`
      if (seen.has(key)) continue
      seen.add(key)
      if (this.isKept(value, pass) && !this.spills.has(value)) {
        this.spills.set(value, this.scratchBytes)
        this.scratchBytes += Math.ceil((this.program.columns * bytes) / step) * step
      }
      const computedIn = this.isKept(value, pass) ? this.passes[value] : pass
      for (const input of values[value].inputs) if (this.isElement(input)) pending.push([input, computedIn])
    }
  }

  /** Whether a pass reads a value from scratch, where an earlier one left it. */
  private isKept(value: number, pass: number): boolean {
    const { operation, inputs } = this.program.values[value]
    if (this.passes[value] >= pass || operation.kind === 'load') return false
    const cheap = operation.kind === 'binary' && ['add', 'subtract', 'multiply'].includes(operation.name)
    return !(
      cheap &&
      inputs.every(input => !this.isElement(input) || this.program.values[input].operation.kind === 'load')
    )
  }

  /** One pass over the columns of a row. */
  private writePass(
    pass: number,
    blockSums: readonly { value: number; place: string; sum?: string }[],
  ): void {
    const { code, program } = this
    const { values, columns } = program
    const reductions = values.flatMap((value, i) =>
      this.isReduction(i) && this.passes[i] === pass ? [{ index: i, value }] : [],
    )
    const overElements = reductions.filter(({ value }) => this.isElement(value.inputs[0]))
    const stores = program.stores.filter(
      ({ value, access }) => access.columnStride !== 0 && this.passes[value] === pass,
    )
    const sums = blockSums.filter(({ value, sum }) => !sum && this.ready(value) === pass)
    const spills = [...this.spills].filter(([value]) => this.passes[value] === pass)
    for (const { index, value } of overElements) {
      const initial = value.operation.kind === 'reduce' && value.operation.name === 'max' ? -Infinity : 0
      const names = Array.from({ length: side }, () => code.local('v128'))
      for (const name of names) code.push(`(local.set $${name} ${constant(initial, 'float32')})`)
      this.accumulators.set(index, names)
      if (initial === 0) {
        this.higherSums.set(index, this.higherLevels())
        continue
      }
      const marks = names.map(() => code.local('v128'))
      for (const mark of marks) code.push(`(local.set $${mark} ${constant(0, 'float32')})`)
      this.unordered.set(index, marks)
    }
    if (overElements.length + stores.length + sums.length + spills.length > 0) {
      const column = code.local('i32')
      const whole = Math.floor((columns * bytes) / step) * step
      const rest = columns * bytes - whole
      const vectors = rest >= lanes * bytes ? whole + lanes * bytes : whole
      const emit = (loop: Loop) =>
        this.writeBody(loop, pass, `(local.get $${column})`, { overElements, stores, sums, spills })
      const repeat = (loop: Loop, to: number | string, by: number) => {
        const until = typeof to === 'number' ? `(i32.const ${to})` : to
        code.push(`(loop $${loop}${pass}`)
        emit(loop)
        code.push(
          `(local.set $${column} (i32.add (local.get $${column}) (i32.const ${by})))`,
          `(br_if $${loop}${pass} (i32.lt_u (local.get $${column}) ${until})))`,
        )
      }
      code.push(`(local.set $${column} (i32.const 0))`)
      const sumsOver = overElements.filter(({ index }) => (this.higherSums.get(index) ?? []).length > 0)
      if (whole > 0 && sumsOver.length === 0) repeat('pairs', whole, step)
      if (whole > 0 && sumsOver.length > 0) {
        const end = code.local('i32')
        code.push(
          `(loop $blocks${pass}`,
          `(local.set $${end} (i32.add (local.get $${column}) (i32.const ${sumSteps * step})))`,
          `(if (i32.gt_u (local.get $${end}) (i32.const ${whole})) (then (local.set $${end} (i32.const ${whole}))))`,
        )
        repeat('pairs', `(local.get $${end})`, step)
        for (const { index } of sumsOver) this.raiseSums(index, `(local.get $${column})`)
        code.push(`(br_if $blocks${pass} (i32.lt_u (local.get $${column}) (i32.const ${whole}))))`)
      }
      if (vectors > whole) repeat('vector', vectors, lanes * bytes)
      if (columns * bytes > vectors) repeat('lane', columns * bytes, bytes)
    }
    for (const { index, value } of reductions) {
      const [input] = value.inputs
      const name = value.operation.kind === 'reduce' ? value.operation.name : 'sum'
      if (this.isElement(input)) this.singles.set(index, this.addUp(index, name))
      else {
        // One value stands for the whole row.
        const single = this.singles.get(input) ?? ''
        this.singles.set(
          index,
          name === 'max' ? single : code.let('f32', `(f32.mul ${single} (f32.const ${columns}))`),
        )
      }
    }
  }

  /** Accumulators, set to zero, for each level above the first that the sum of a row needs. */
  private higherLevels(): string[][] {
    const levels: string[][] = []
    const all = this.program.columns / (side * lanes)
    if (all <= plainSteps) return levels
    for (let steps = all; steps > sumSteps; steps /= sumSteps) {
      const names = Array.from({ length: side }, () => this.code.local('v128'))
      for (const name of names) this.code.push(`(local.set $${name} ${constant(0, 'float32')})`)
      levels.push(names)
    }
    return levels
  }

  /** Adds a full sum to the level above, and that one where it is full in turn. done: how far in the row, in bytes. */
  private raiseSums(index: number, done: string): void {
    const { code } = this
    const higher = this.higherSums.get(index) ?? []
    const levels = [this.accumulators.get(index) ?? [], ...higher]
    higher.forEach((_, level) => {
      const full = step * sumSteps ** (level + 1)
      if (level > 0) code.push(`(if (i32.eqz (i32.rem_u ${done} (i32.const ${full}))) (then`)
      this.addLevel(levels[level], levels[level + 1])
      for (const name of levels[level]) code.push(`(local.set $${name} ${constant(0, 'float32')})`)
    })
    code.push(')) '.repeat(Math.max(0, higher.length - 1)))
  }

  private addLevel(from: readonly string[], to: readonly string[]): void {
    to.forEach((name, i) =>
      this.code.push(`(local.set $${name} (f32x4.add (local.get $${name}) (local.get $${from[i]})))`),
    )
  }

  /** Adds up the lanes of a reduction. The stores side by side are what the revectorizer starts from. */
  private addUp(index: number, name: 'sum' | 'max'): string {
    const { code } = this
    const join = (a: string, b: string) =>
      name === 'sum' ? `(f32x4.add ${a} ${b})` : `(f32x4.max ${a} ${b})`
    const names = [this.accumulators.get(index) ?? [], ...(this.higherSums.get(index) ?? [])].reduce(
      (below, level) => {
        this.addLevel(below, level)
        return level
      },
    )
    const marks = this.unordered.get(index) ?? []
    marks.forEach((mark, i) =>
      code.push(`(local.set $${names[i]} (v128.or (local.get $${names[i]}) (local.get $${mark})))`),
    )
    names.forEach((local, i) =>
      code.push(`(v128.store offset=${i * lanes * bytes} (local.get $scratch) (local.get $${local}))`),
    )
    const both = code.let(
      'v128',
      join('(v128.load (local.get $scratch))', `(v128.load offset=16 (local.get $scratch))`),
    )
    const swapped = (value: string, order: readonly number[]) =>
      `(i8x16.shuffle ${order.flatMap(lane => [0, 1, 2, 3].map(byte => lane * bytes + byte)).join(' ')} ${value} ${value})`
    const pair = code.let('v128', join(both, swapped(both, [2, 3, 0, 1])))
    return code.let('f32', `(f32x4.extract_lane 0 ${join(pair, swapped(pair, [1, 0, 3, 2]))})`)
  }

  /** What a pass does at a column: all loads, all arithmetic, then the stores, in order, side by side. */
  private writeBody(
    loop: Loop,
    pass: number,
    column: string,
    work: {
      overElements: readonly { index: number; value: RowValue }[]
      stores: readonly { value: number; access: Access }[]
      sums: readonly { value: number; place: string }[]
      spills: readonly (readonly [value: number, place: number])[]
    },
  ): void {
    const { code } = this
    const halves = loop === 'pairs' ? [0, 1] : [0]
    const needed = [
      ...work.overElements.map(({ value }) => value.inputs[0]),
      ...work.stores.map(({ value }) => value),
      ...work.sums.map(({ value }) => value),
      ...work.spills.map(([value]) => value),
    ]
    const order = this.closure(needed, pass)
    // One address for both halves: the revectorizer joins what has the same base.
    const addresses = new Map<string, string>()
    const at = (pointer: string) => {
      const known = addresses.get(pointer) ?? code.let('i32', `(i32.add ${pointer} ${column})`)
      addresses.set(pointer, known)
      return known
    }
    const known = halves.map(() => new Map<number, string>())
    for (const value of order.filter(index => this.isLoaded(index, pass))) {
      for (const half of halves)
        known[half].set(value, code.let('v128', this.loadVector(value, pass, loop, half, column, at)))
    }
    const partial = work.sums.map(({ place }) =>
      halves.map(half => code.let('v128', loadAt(loop, at(place), half))),
    )
    const computed = order.filter(value => !known[0].has(value))
    const operandsOf = (value: number, half: number) =>
      this.program.values[value].inputs.map(input => {
        const operand = known[half].get(input) ?? this.splat(input)
        // Operands that are read many times must be locals.
        return operand.startsWith('(local.get') ? operand : code.let('v128', operand)
      })
    const computeHalf = (value: number, half: number) => {
      const { operation, inputs } = this.program.values[value]
      const dtypes = inputs.map(input => this.program.values[input].dtype)
      known[half].set(value, code.let('v128', this.compute(operation, operandsOf(value, half), dtypes)))
    }
    const sineOf = (value: number) => {
      const { operation } = this.program.values[value]
      const isSine = operation.kind === 'unary' && (operation.name === 'sin' || operation.name === 'cos')
      return isSine ? operation.name : undefined
    }
    if (computed.some(sineOf)) {
      // A sine has a branch, which both halves share.
      for (const value of computed) {
        const name = sineOf(value)
        if (!name) for (const half of halves) computeHalf(value, half)
        else {
          const operands = halves.map(half => operandsOf(value, half)[0])
          this.elementwise.sines(code, name, operands).forEach((sine, half) => {
            known[half].set(value, code.let('v128', sine))
          })
        }
      }
    } else for (const half of halves) for (const value of computed) computeHalf(value, half)
    const of = (value: number, half: number) => known[half].get(value) ?? this.splat(value)
    for (const { index, value } of work.overElements) {
      const isMax = value.operation.kind === 'reduce' && value.operation.name === 'max'
      for (const half of halves) {
        const sum = this.accumulators.get(index)?.[half]
        const added = code.let('v128', masked(of(value.inputs[0], half), loop, isMax))
        // What f32x4.max does in eight instructions: pmax passes NaN over, and all ones in a lane are a NaN.
        const mark = this.unordered.get(index)?.[half]
        if (mark)
          code.push(`(local.set $${mark} (v128.or (local.get $${mark}) (f32x4.ne ${added} ${added})))`)
        code.push(`(local.set $${sum} (f32x4.${isMax ? 'pmax' : 'add'} (local.get $${sum}) ${added}))`)
      }
    }
    work.sums.forEach(({ value, place }, i) => {
      for (const half of halves) {
        code.push(
          storeAt(
            loop,
            at(place),
            half,
            code.let('v128', `(f32x4.add ${partial[i][half]} ${of(value, half)})`),
          ),
        )
      }
    })
    for (const { value, access } of work.stores) {
      for (const half of halves)
        code.push(storeAt(loop, at(this.pointers.get(access) ?? ''), half, of(value, half)))
    }
    for (const [value, place] of work.spills) {
      for (const half of halves)
        code.push(storeAt(loop, at('(local.get $scratch)'), half, of(value, half), place))
    }
  }

  /** What a pass computes or loads for some values, operands first. */
  private closure(needed: readonly number[], pass: number): number[] {
    const found = new Set<number>()
    // Backwards, since the last one is looked at first.
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

  private isLoaded(value: number, pass: number): boolean {
    return this.program.values[value].operation.kind === 'load' || this.isKept(value, pass)
  }

  private loadVector(
    value: number,
    pass: number,
    loop: Loop,
    half: number,
    column: string,
    at: (pointer: string) => string,
  ): string {
    const { operation } = this.program.values[value]
    if (this.isKept(value, pass) || operation.kind !== 'load') {
      return loadAt(loop, at('(local.get $scratch)'), half, this.spills.get(value))
    }
    const { access } = operation
    const pointer = this.pointers.get(access) ?? ''
    const { columnStride } = access
    if (!access.buffer) {
      const first = `(i32.add (i32.shr_u ${column} (i32.const 2)) (i32.const ${half * lanes}))`
      const numbers = `(i32x4.add (i32x4.splat ${first}) (v128.const i32x4 0 1 2 3))`
      return `(i32x4.add (i32x4.splat ${pointer}) (i32x4.mul ${numbers} (i32x4.splat (i32.const ${columnStride}))))`
    }
    if (columnStride === 1) return loadAt(loop, at(pointer), half)
    const start = `(i32.add ${pointer} (i32.mul ${column} (i32.const ${columnStride})))`
    if (loop === 'lane') return `(v128.load32_zero ${start})`
    const byte = (lane: number) => (half * lanes + lane) * columnStride * bytes
    const rest = [1, 2, 3].reduce(
      (vector, lane) => `(v128.load32_lane offset=${byte(lane)} ${lane} ${start} ${vector})`,
      `(v128.load32_zero offset=${byte(0)} ${start})`,
    )
    return rest
  }
}

function loadAt(loop: Loop, address: string, half: number, offset = 0): string {
  return `(v128.load${loop === 'lane' ? '32_zero' : ''} offset=${offset + half * lanes * bytes} ${address})`
}

function storeAt(loop: Loop, address: string, half: number, value: string, offset = 0): string {
  const at = `offset=${offset + half * lanes * bytes}`
  return loop === 'lane'
    ? `(v128.store32_lane ${at} 0 ${address} ${value})`
    : `(v128.store ${at} ${address} ${value})`
}

/** A single lane's neighbours must not count. */
function masked(value: string, loop: Loop, isMax: boolean): string {
  if (loop !== 'lane') return value
  const mask = '(v128.const i32x4 -1 0 0 0)'
  return isMax
    ? `(v128.bitselect ${value} ${constant(-Infinity, 'float32')} ${mask})`
    : `(v128.and ${value} ${mask})`
}
