import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Target } from '../../engine/gpu/kernels/kernel.ts'
import { RowBuilder } from '../../engine/gpu/passes/row-builder.ts'
import { rowDispatches } from '../../engine/gpu/passes/row-passes.ts'
import type { BinaryName, UnaryName } from '../../engine/graph/operations.ts'
import { canStoreInPlace } from '../../engine/compiler/in-place.ts'
import { type Access, Buffer, type RowProgram } from '../../engine/compiler/program.ts'
import { openMachine } from '../support/gpu-machine.ts'
import { erf, seeded } from '../support/reference.ts'

// Row programs on the GPU beside plain JavaScript in float64.

const machine = await openMachine()
const skip = machine ? false : 'no GPU'

type Memory = Map<Buffer, Float64Array>
type Random = () => number

const unary: Partial<Record<UnaryName, (x: number) => number>> = {
  negate: x => -x,
  abs: Math.abs,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  reciprocal: x => 1 / x,
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  erf,
  toFloat: Math.abs, // of truth values, which are 0 and −1
  detach: x => x,
}

const binary: Partial<Record<BinaryName, (x: number, y: number) => number>> = {
  add: (x, y) => x + y,
  subtract: (x, y) => x - y,
  multiply: (x, y) => x * y,
  maximum: Math.max,
  minimum: Math.min,
  less: (x, y) => -Number(x < y),
}

/** Which element of a buffer an access touches. */
function addressOf(memory: Memory, access: Access, row: number, column: number): number {
  const { offset, rowDims, columnStride, gather } = access
  let address = offset + column * columnStride
  if (gather) {
    const { indices, rowStride, limit } = gather
    address += Math.min(limit - 1, Math.max(0, loaded(memory, indices, row, 0))) * rowStride
  }
  let rest = row
  for (const [extent, stride] of rowDims.toReversed()) {
    address += (rest % extent) * stride
    rest = Math.floor(rest / extent)
  }
  return address
}

function loaded(memory: Memory, access: Access, row: number, column: number): number {
  const address = addressOf(memory, access, row, column)
  return access.buffer ? contents(memory, access.buffer)[address] : address
}

function contents(memory: Memory, { allocation }: Buffer): Float64Array {
  const known = memory.get(allocation) ?? new Float64Array(allocation.size)
  memory.set(allocation, known)
  return known
}

/** Does what a row program says, element by element. */
function interpret(work: RowProgram, memory: Memory): void {
  const { rows, columns, rowBlock, values, stores, columnSums } = work
  const elements = Array.from({ length: rows }, (_, row) => {
    const table: number[][] = []
    for (const { operation, inputs } of values) {
      if (operation.kind === 'reduce') {
        const whole = table[inputs[0]]
        const result = operation.name === 'max' ? Math.max(...whole) : whole.reduce((sum, x) => sum + x)
        table.push(Array<number>(columns).fill(result))
        continue
      }
      const line = Array.from({ length: columns }, (_, column) => {
        const [a, b, c] = inputs.map(input => table[input][column])
        switch (operation.kind) {
          case 'load':
            return loaded(memory, operation.access, row, operation.access.columnStride === 0 ? 0 : column)
          case 'constant':
            return operation.value
          case 'unary':
            return unary[operation.name]?.(a) ?? NaN
          case 'binary':
            return binary[operation.name]?.(a, b) ?? NaN
          case 'where':
            return a === 0 ? c : b
          default:
            return NaN
        }
      })
      table.push(line)
    }
    return table
  })
  for (const { value, access } of stores) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < (access.columnStride === 0 ? 1 : columns); column++) {
        const address = addressOf(memory, access, row, column)
        if (access.buffer) contents(memory, access.buffer)[address] = elements[row][value][column]
      }
    }
  }
  for (const { value, buffer, width } of columnSums) {
    const sums = contents(memory, buffer)
    elements.forEach((table, row) => {
      for (let column = 0; column < width; column++)
        sums[Math.floor(row / rowBlock) * width + column] += table[value][column]
    })
  }
}

interface Extents {
  readonly rows: number
  readonly columns: number
  readonly rowBlock?: number
}

/** A row program in the making, and what its buffers hold. */
class Writer {
  readonly builder = new RowBuilder([])
  readonly stores: { value: number; access: Access }[] = []
  readonly columnSums: { value: number; buffer: Buffer; width: number }[] = []
  readonly initial = new Map<Buffer, Float64Array>()
  readonly halves = new Set<Buffer>()
  readonly extents: Extents
  private readonly random: Random

  constructor(extents: Extents, random: Random) {
    this.extents = extents
    this.random = random
  }

  get work(): RowProgram {
    const { rows, rowBlock = Math.min(rows, 48) } = this.extents
    const { stores, columnSums } = this
    return { kind: 'rows', ...this.extents, rowBlock, values: this.builder.values, stores, columnSums }
  }

  filled(size: number, number: () => number = () => this.random() * 2 - 1): Buffer {
    const buffer = new Buffer(size, 'float32')
    this.initial.set(buffer, Float64Array.from({ length: size }, number))
    return buffer
  }

  /** Rows that lie one after the other. */
  whole(buffer: Buffer, offset = 0): Access {
    const { rows, columns } = this.extents
    return {
      buffer,
      offset,
      rowDims: rows > 1 ? [[rows, columns]] : [],
      columnStride: columns > 1 ? 1 : 0,
    }
  }

  /** One for each row. */
  perRow(buffer: Buffer): Access {
    const { rows } = this.extents
    return { buffer, offset: 0, rowDims: rows > 1 ? [[rows, 1]] : [], columnStride: 0 }
  }

  load(access: Access): number {
    return this.builder.load(access, 'float32')
  }

  input(): number {
    return this.load(this.whole(this.filled(this.extents.rows * this.extents.columns)))
  }

  unary(name: UnaryName, x: number): number {
    return this.builder.add({ operation: { kind: 'unary', name }, inputs: [x], dtype: 'float32' })
  }

  binary(name: BinaryName, x: number, y: number): number {
    const dtype = name === 'less' ? 'bool' : 'float32'
    return this.builder.add({ operation: { kind: 'binary', name }, inputs: [x, y], dtype })
  }

  where(condition: number, yes: number, no: number): number {
    return this.builder.add({
      operation: { kind: 'where' },
      inputs: [condition, yes, no],
      dtype: 'float32',
    })
  }

  constant(value: number): number {
    return this.builder.add({ operation: { kind: 'constant', value }, inputs: [], dtype: 'float32' })
  }

  reduce(name: 'sum' | 'max', x: number): number {
    return this.builder.add({ operation: { kind: 'reduce', name }, inputs: [x], dtype: 'float32' })
  }

  mean(x: number): number {
    return this.binary('multiply', this.reduce('sum', x), this.constant(1 / this.extents.columns))
  }

  store(value: number, access?: Access): void {
    const { rows, columns } = this.extents
    const isElement = this.builder.values[value].extent === 'element' || columns === 1
    const size = isElement ? rows * columns : rows
    const buffer = new Buffer(size, 'float32')
    this.stores.push({ value, access: access ?? (isElement ? this.whole(buffer) : this.perRow(buffer)) })
  }

  columnSum(value: number): void {
    const { rows, columns, rowBlock = Math.min(rows, 48) } = this.extents
    const width = this.builder.values[value].extent === 'element' ? columns : 1
    this.columnSums.push({ value, width, buffer: new Buffer(Math.ceil(rows / rowBlock) * width, 'float32') })
  }
}

/** Runs a program on the GPU and checks all that it writes; returns the largest error in units of the bounds. */
async function check(
  { work, initial, halves }: Writer,
  changes: Partial<Target> = {},
  bound = 2e-5,
): Promise<number> {
  assert.ok(machine)
  const target = { ...machine.target, ...changes }
  const memory: Memory = new Map()
  if (target.f16) for (const half of halves) machine.types.set(half, 'f16')
  for (const [buffer, numbers] of initial) memory.set(buffer, machine.write(buffer, numbers))
  await machine.run(rowDispatches(work, machine.typeOf, target))
  interpret(work, memory)
  let largest = 0
  const written = [
    ...work.stores.map(({ access }) => access.buffer),
    ...work.columnSums.map(({ buffer }) => buffer),
  ]
  for (const [i, buffer] of written.entries()) {
    if (!buffer) continue
    const expected = contents(memory, buffer)
    const actual = await machine.read(buffer)
    const isHalf = machine.typeOf(buffer) === 'f16'
    const allowed = isHalf ? 1e-3 : bound
    expected.forEach((value, at) => {
      const limited = isHalf ? Math.max(-65504, Math.min(65504, value)) : value
      const error = Math.abs(actual[at] - limited) / (1 + Math.abs(limited)) / allowed
      assert.ok(error <= 1, `output ${i}, element ${at}: ${actual[at]}, expected ${value}`)
      largest = Math.max(largest, error)
    })
  }
  machine.clear()
  return largest
}

/** Adapters that there may be. */
function targets(): Partial<Target>[] {
  return [
    {},
    { subgroups: undefined },
    // The size is not known beforehand.
    ...(machine?.target.subgroups ? [{ subgroups: { smallest: 4, largest: 32 } }] : []),
    { workgroupSize: 64 },
    { workgroupSize: 256, bindings: 4 },
  ]
}

const choose = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)]

/** A random program of everything that a row program can have. */
function randomProgram(random: Random): Writer {
  const rows = choose(random, [1, 2, 3, 7, 49, 97, 200])
  const columns = choose(random, [1, 2, 3, 4, 6, 8, 12, 31, 64, 100, 132, 257])
  const writer = new Writer({ rows, columns }, random)
  const { builder } = writer
  const floats: number[] = []
  const wide = columns > 1 ? 1 : 0
  const loads: (() => number)[] = [
    () => writer.input(),
    () => writer.input(),
    // Memory that starts and goes on at odd places.
    () => {
      const stride = columns + Math.floor(random() * 5)
      const buffer = writer.filled(3 + rows * stride)
      const rowDims = rows > 1 ? [[rows, stride] as const] : []
      return writer.load({ buffer, offset: Math.floor(random() * 4), rowDims, columnStride: wide })
    },
    // The same for all rows, or for all columns, or for all.
    () => writer.load({ buffer: writer.filled(columns), offset: 0, rowDims: [], columnStride: wide }),
    () => writer.load(writer.perRow(writer.filled(rows))),
    () => writer.load({ buffer: writer.filled(2), offset: 1, rowDims: [], columnStride: 0 }),
    // Columns apart.
    () => {
      const rowDims = rows > 1 ? [[rows, 1] as const] : []
      const buffer = writer.filled(rows * columns)
      return writer.load({ buffer, offset: 0, rowDims, columnStride: wide * rows })
    },
    // Rows counted in two.
    () => {
      if (rows % 7 !== 0) return writer.input()
      const rowDims = [[rows / 7, columns] as const, [7, 0] as const]
      return writer.load({ buffer: writer.filled(rows * columns), offset: 0, rowDims, columnStride: wide })
    },
    () => {
      const indices = writer.perRow(new Buffer(rows, 'int32'))
      if (indices.buffer)
        writer.initial.set(
          indices.buffer,
          Float64Array.from({ length: rows }, () => Math.floor(random() * 12) - 2),
        )
      const gather = { indices, rowStride: columns, limit: 9 }
      return writer.load({
        buffer: writer.filled(9 * columns),
        offset: 0,
        rowDims: [],
        columnStride: wide,
        gather,
      })
    },
    () => {
      const count = builder.load({ ...writer.whole(new Buffer(0, 'int32'), 3), buffer: undefined }, 'int32')
      const number = builder.add({
        operation: { kind: 'unary', name: 'toFloat' },
        inputs: [count],
        dtype: 'float32',
      })
      return writer.unary('sin', writer.binary('multiply', number, writer.constant(2 ** -8)))
    },
  ]
  for (let i = 0; i < 5; i++) floats.push(choose(random, loads)())
  const recent = () => floats[Math.max(0, floats.length - 1 - Math.floor(random() ** 2 * floats.length))]
  const operations: (() => number)[] = [
    () => writer.unary(choose(random, ['negate', 'abs', 'sin', 'cos', 'tanh', 'erf', 'detach']), recent()),
    () => writer.unary(choose(random, ['exp', 'tanh']), writer.unary('sin', recent())),
    () =>
      writer.unary(
        choose(random, ['log', 'sqrt', 'reciprocal']),
        writer.unary('exp', writer.unary('sin', recent())),
      ),
    () => writer.binary(choose(random, ['add', 'subtract', 'maximum', 'minimum']), recent(), recent()),
    () => writer.binary('multiply', writer.unary('tanh', recent()), recent()),
    () => writer.where(writer.binary('less', floats[0], writer.constant(0.1)), recent(), recent()),
    () => writer.mean(recent()),
    () => writer.reduce('max', recent()),
    () => {
      const x = recent()
      return writer.binary('subtract', x, writer.mean(x))
    },
  ]
  for (let i = 0; i < 12; i++) floats.push(choose(random, operations)())
  for (const value of new Set([floats[floats.length - 1], recent(), recent()])) {
    writer.store(value)
    const { buffer } = writer.stores[writer.stores.length - 1].access
    if (buffer && random() < 0.3) writer.halves.add(buffer)
  }
  if (random() < 0.5) writer.columnSum(recent())
  if (random() < 0.3) writer.columnSum(recent())
  for (const [buffer] of writer.initial)
    if (random() < 0.2 && buffer.dtype === 'float32') writer.halves.add(buffer)
  // In place, where that can be.
  const [{ value, access }] = writer.stores
  const overwritten = [...writer.initial.keys()].find(
    buffer =>
      access.buffer?.size === buffer.size &&
      buffer.dtype === 'float32' &&
      canStoreInPlace(writer.work, buffer, access, value),
  )
  if (access.buffer && overwritten && random() < 0.5) {
    writer.halves.delete(access.buffer)
    access.buffer.aliasOf = overwritten
  }
  return writer
}

test('random row programs, on adapters of all kinds', { skip }, async () => {
  const failed: string[] = []
  for (let seed = 0; seed < 60; seed++) {
    const variants = targets()
    try {
      await check(randomProgram(seeded(seed + 1)), variants[seed % variants.length])
    } catch (error) {
      failed.push(`seed ${seed}: ${error instanceof Error ? error.message : error}`)
    }
  }
  assert.deepEqual(failed, [])
})

/** A softmax, and what depends on two sums one after the other, with sums of columns. */
function layeredProgram(extents: Extents, random: Random): Writer {
  const writer = new Writer(extents, random)
  const x = writer.input()
  const centered = writer.binary('subtract', x, writer.mean(x))
  const scale = writer.unary(
    'reciprocal',
    writer.unary('sqrt', writer.mean(writer.binary('multiply', centered, centered))),
  )
  const normed = writer.binary('multiply', centered, scale)
  const top = writer.reduce('max', normed)
  const grown = writer.unary('exp', writer.binary('subtract', normed, top))
  const share = writer.binary('multiply', grown, writer.unary('reciprocal', writer.reduce('sum', grown)))
  writer.store(normed)
  writer.store(writer.binary('multiply', share, writer.constant(extents.columns)))
  writer.store(top)
  return writer
}

test('rows of all lengths: of a few columns, in registers, and too long for them', { skip }, async () => {
  const random = seeded(1)
  for (const [rows, columns, workgroupSize] of [
    [300, 5, 256],
    [70, 768, 256],
    [9, 3000, 256],
    [5, 4104, 64],
    [5, 6001, 64],
    [3, 9000, 256],
  ]) {
    const writer = layeredProgram({ rows, columns }, random)
    await check(writer, { workgroupSize })
    // The same with sums of columns, which a workgroup adds up block by block.
    const summed = layeredProgram({ rows, columns, rowBlock: Math.ceil(rows / 2) }, random)
    const [normed, , top] = summed.stores.map(({ value }) => value)
    summed.columnSum(normed)
    summed.columnSum(top)
    await check(summed, { workgroupSize })
  }
})

test('a few very long rows, shared out among workgroups', { skip }, async () => {
  const random = seeded(2)
  for (const [rows, columns] of [
    [1, 40000],
    [3, 20004],
    // Which no number of equal pieces makes up.
    [2, 16411],
  ]) {
    const writer = layeredProgram({ rows, columns }, random)
    assert.ok(machine)
    const dispatches = rowDispatches(writer.work, machine.typeOf, machine.target)
    if (columns !== 16411) assert.ok(dispatches.some(({ workgroups }) => workgroups > 1))
    await check(writer)
  }
})

test('sums of columns alone, of many rows and of few', { skip }, async () => {
  for (const extents of [
    { rows: 400, columns: 129 },
    { rows: 341, columns: 96, rowBlock: 341 },
    { rows: 700, columns: 1 },
    { rows: 5, columns: 2048 },
  ]) {
    const writer = new Writer(extents, seeded(3))
    const x = writer.input()
    writer.columnSum(x)
    writer.columnSum(writer.binary('multiply', x, x))
    writer.store(writer.unary('negate', x))
    await check(writer)
  }
})

test('more operands than an adapter takes, some of them overwritten', { skip }, async () => {
  const random = seeded(4)
  const scalars = new Writer({ rows: 1, columns: 1 }, random)
  scalars.store(
    Array.from({ length: 40 }, () => scalars.input()).reduce((a, b) => scalars.binary('add', a, b)),
  )
  await check(scalars, { bindings: 8 })
  const writer = new Writer({ rows: 20, columns: 12 }, random)
  const inputs = Array.from({ length: 12 }, () => writer.input())
  const sum = inputs.reduce((a, b) => writer.binary('add', a, b))
  const largest = writer.reduce('max', sum)
  for (const input of inputs.slice(0, 6)) {
    writer.store(writer.binary('multiply', writer.binary('subtract', sum, largest), input))
    const { operation } = writer.builder.values[input]
    const { buffer } = writer.stores[writer.stores.length - 1].access
    if (operation.kind === 'load' && buffer && operation.access.buffer)
      buffer.aliasOf = operation.access.buffer
  }
  writer.columnSum(sum)
  await check(writer, { bindings: 5 })
})

test('one for a row, overwritten where all of the row reads it', { skip }, async () => {
  for (const columns of [8, 300]) {
    const writer = new Writer({ rows: 33, columns }, seeded(5))
    const access = writer.perRow(writer.filled(33))
    const single = writer.load(access)
    writer.store(writer.binary('multiply', writer.input(), single))
    writer.store(writer.unary('exp', single), access)
    await check(writer)
  }
})

test('what is too large for f16 is stored as the largest', { skip }, async () => {
  const writer = new Writer({ rows: 4, columns: 7 }, seeded(6))
  writer.store(writer.binary('multiply', writer.input(), writer.constant(3e5)))
  const [{ access }] = writer.stores
  if (access.buffer) writer.halves.add(access.buffer)
  await check(writer)
})

test('the same bits at every run', { skip }, async () => {
  assert.ok(machine)
  const runs: Float64Array[] = []
  for (let i = 0; i < 3; i++) {
    const writer = layeredProgram({ rows: 150, columns: 300 }, seeded(7))
    writer.columnSum(writer.stores[0].value)
    const { initial, work } = writer
    for (const [buffer, numbers] of initial) machine.write(buffer, numbers)
    await machine.run(rowDispatches(work, machine.typeOf, machine.target))
    runs.push(await machine.read(work.columnSums[0].buffer))
    machine.clear()
  }
  assert.deepEqual(runs[1], runs[0])
  assert.deepEqual(runs[2], runs[0])
})
