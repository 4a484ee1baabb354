/**
 * Kernels for row programs: elementwise operations and reductions fused into passes over each row. A row is passed over
 * once for each reduction that later values depend on, and once more.
 */
import type { RowProgram } from '../../../compiler/program.ts'
import { Elementwise } from '../elementwise/operations.ts'
import { FunctionBuilder } from '../function-builder.ts'
import { hash } from '../../../compiler/hash.ts'
import type { Kernel } from '../kernel.ts'
import { Addressing } from './addressing.ts'
import { type PassWork, type RowContext, writeBody } from './body.ts'
import { accessesOf } from './operands.ts'
import { Passes } from './passes.ts'
import { Reductions, sumBytes } from './reductions.ts'
import { Values } from './values.ts'
import { type Loop, elementBytes, lanes, pairBytes } from './vectors.ts'

/** The kernel of a row program. One item is a block of rows. Its operands are those that rowOperands lists. */
export function rowKernel(program: RowProgram, fma: boolean): Kernel {
  const code = new FunctionBuilder()
  const elementwise = new Elementwise(fma)
  const addressing = new Addressing(code)
  const passes = new Passes(program)
  const values = new Values(program, code, elementwise, addressing)
  const reductions = new Reductions(code, program.columns)
  writeKernel({ program, code, elementwise, addressing, passes, values, reductions })
  const wat = code.kernel('KERNEL')
  const name = `rows.${hash(wat)}`
  const items = Math.ceil(program.rows / program.rowBlock)
  return { name, wat: wat.replaceAll('$KERNEL', `$${name}`), items, scratchBytes: passes.scratchBytes }
}

/** A sum over the rows of a block, of a value for each element. */
interface ElementSum {
  readonly value: number
  readonly address: string
}

/** A sum over the rows of a block, of a value for each row. The local `sum` holds it until the block is complete. */
interface SingleSum extends ElementSum {
  readonly sum: string
}

function writeKernel(context: RowContext): void {
  const { program, code, addressing, passes, values } = context
  const { rows, rowBlock, stores, columnSums } = program
  addressing.begin(accessesOf(program))
  const elementSums: ElementSum[] = []
  const singleSums: SingleSum[] = []
  for (const { value, width } of columnSums) {
    const base = addressing.nextOperand()
    const address = code.let(
      'i32',
      `(i32.add ${base} (i32.mul (local.get $item) (i32.const ${width * elementBytes})))`,
    )
    if (width > 1) {
      code.push(`(memory.fill ${address} (i32.const 0) (i32.const ${width * elementBytes}))`)
      elementSums.push({ value, address })
    } else singleSums.push({ value, address, sum: code.local('f32') })
  }

  program.values.forEach((value, i) => {
    if (value.extent === 'uniform') values.computeSingle(i, value, '(i32.const 0)')
  })
  const row = code.local('i32')
  const end = code.local('i32')
  code.push(
    `(local.set $${row} (i32.mul (local.get $item) (i32.const ${rowBlock})))`,
    `(local.set $${end} (i32.add (local.get $${row}) (i32.const ${rowBlock})))`,
    `(if (i32.gt_u (local.get $${end}) (i32.const ${rows})) (then (local.set $${end} (i32.const ${rows}))))`,
    `(loop $row`,
  )
  addressing.enterRow(`(local.get $${row})`)
  const last = Math.max(passes.last, ...elementSums.map(({ value }) => passes.readyIn(value)))
  for (let pass = 0; pass <= last; pass++) {
    program.values.forEach((value, i) => {
      if (value.extent === 'row' && !passes.isReduction(i) && passes.of(i) === pass)
        values.computeSingle(i, value, `(local.get $${row})`)
    })
    writePass(context, pass, elementSums)
  }
  for (const { access, value } of stores) {
    if (access.columnStride !== 0) continue
    const address = addressing.rowAddress(access, `(local.get $${row})`)
    const store = program.values[value].dtype === 'float32' ? 'f32.store' : 'i32.store'
    code.push(`(${store} ${address} ${values.single(value)})`)
  }
  for (const { value, sum } of singleSums)
    code.push(`(local.set $${sum} (f32.add (local.get $${sum}) ${values.single(value)}))`)
  code.push(
    `(local.set $${row} (i32.add (local.get $${row}) (i32.const 1)))`,
    `(br_if $row (i32.lt_u (local.get $${row}) (local.get $${end}))))`,
  )
  for (const { address, sum } of singleSums) code.push(`(f32.store ${address} (local.get $${sum}))`)
}

/** Writes one pass over the columns of a row, and the results of its reductions. */
function writePass(context: RowContext, pass: number, elementSums: readonly ElementSum[]): void {
  const { program, code, passes, values, reductions } = context
  const all = program.values.flatMap(({ operation, inputs }, result) =>
    operation.kind === 'reduce' && passes.of(result) === pass
      ? [{ result, input: inputs[0], name: operation.name, isMax: operation.name === 'max' }]
      : [],
  )
  const overElements = all.filter(({ input }) => passes.isElement(input))
  for (const { result, name } of overElements) reductions.begin(result, name)
  writeColumns(context, {
    pass,
    reductions: overElements,
    stores: program.stores.filter(
      ({ value, access }) => access.columnStride !== 0 && passes.of(value) === pass,
    ),
    columnSums: elementSums.filter(({ value }) => passes.readyIn(value) === pass),
    spills: [...passes.spills].filter(([value]) => passes.of(value) === pass),
  })
  for (const { result, input, name } of all) {
    if (passes.isElement(input)) values.setSingle(result, reductions.finish(result))
    // The value is the same in all columns of the row.
    else if (name === 'max') values.setSingle(result, values.single(input))
    else {
      const product = `(f32.mul ${values.single(input)} (f32.const ${program.columns}))`
      values.setSingle(result, code.let('f32', product))
    }
  }
}

/** Writes the loops over the columns: pairs of vectors, then perhaps a vector, then elements. */
function writeColumns(context: RowContext, work: PassWork): void {
  const { program, code, reductions } = context
  const { pass, stores, columnSums, spills } = work
  if (work.reductions.length + stores.length + columnSums.length + spills.length === 0) return
  const column = code.local('i32')
  const bytes = program.columns * elementBytes
  const vectorBytes = lanes * elementBytes
  const pairsEnd = Math.floor(bytes / pairBytes) * pairBytes
  const vectorsEnd = bytes - pairsEnd >= vectorBytes ? pairsEnd + vectorBytes : pairsEnd
  const repeat = (loop: Loop, to: number | string, by: number) => {
    const until = typeof to === 'number' ? `(i32.const ${to})` : to
    code.push(`(loop $${loop}${pass}`)
    writeBody(context, work, loop, `(local.get $${column})`)
    code.push(
      `(local.set $${column} (i32.add (local.get $${column}) (i32.const ${by})))`,
      `(br_if $${loop}${pass} (i32.lt_u (local.get $${column}) ${until})))`,
    )
  }
  code.push(`(local.set $${column} (i32.const 0))`)
  const hierarchical = work.reductions.filter(({ result }) => reductions.hasLevels(result))
  if (pairsEnd > 0 && hierarchical.length === 0) repeat('pairs', pairsEnd, pairBytes)
  if (pairsEnd > 0 && hierarchical.length > 0) {
    const end = code.local('i32')
    code.push(
      `(loop $blocks${pass}`,
      `(local.set $${end} (i32.add (local.get $${column}) (i32.const ${sumBytes})))`,
      `(if (i32.gt_u (local.get $${end}) (i32.const ${pairsEnd})) (then (local.set $${end} (i32.const ${pairsEnd}))))`,
    )
    repeat('pairs', `(local.get $${end})`, pairBytes)
    for (const { result } of hierarchical) reductions.raise(result, `(local.get $${column})`)
    code.push(`(br_if $blocks${pass} (i32.lt_u (local.get $${column}) (i32.const ${pairsEnd}))))`)
  }
  if (vectorsEnd > pairsEnd) repeat('vector', vectorsEnd, vectorBytes)
  if (bytes > vectorsEnd) repeat('lane', bytes, elementBytes)
}
