/** The body of a loop over the columns of a row: what one pass computes, for a pair of vectors, a vector or an element. */
import type { Access, RowProgram } from '../../../compiler/program.ts'
import type { Elementwise } from '../elementwise/operations.ts'
import type { FunctionBuilder } from '../function-builder.ts'
import type { Addressing } from './addressing.ts'
import type { Passes } from './passes.ts'
import type { Reductions } from './reductions.ts'
import type { Values } from './values.ts'
import { type Loop, loadAt, masked, storeAt } from './vectors.ts'

/** What a pass does with the elements of a row. */
export interface PassWork {
  readonly pass: number
  /** Reductions over elements: the reduced value, and the one that is the result. */
  readonly reductions: readonly { readonly result: number; readonly input: number; readonly isMax: boolean }[]
  readonly stores: readonly { readonly value: number; readonly access: Access }[]
  /** Sums over the rows of a block, at these addresses. */
  readonly columnSums: readonly { readonly value: number; readonly address: string }[]
  /** Values that are kept in scratch memory, at these byte offsets. */
  readonly spills: readonly (readonly [value: number, offset: number])[]
}

/** What the parts of a row kernel share. */
export interface RowContext {
  readonly program: RowProgram
  readonly code: FunctionBuilder
  readonly elementwise: Elementwise
  readonly addressing: Addressing
  readonly passes: Passes
  readonly values: Values
  readonly reductions: Reductions
}

/**
 * Writes what a pass does at a column, which is in bytes from the start of the row. The revectorizer needs all loads
 * first, then all arithmetic, then the stores, with those of a pair next to each other.
 */
export function writeBody(context: RowContext, work: PassWork, loop: Loop, column: string): void {
  const { program, code, addressing, passes, values, reductions } = context
  const { pass } = work
  const halves = loop === 'pairs' ? [0, 1] : [0]
  const needed = [
    ...work.reductions.map(({ input }) => input),
    ...work.stores.map(({ value }) => value),
    ...work.columnSums.map(({ value }) => value),
    ...work.spills.map(([value]) => value),
  ]
  const order = passes.closure(needed, pass)
  // One address for both halves: the revectorizer joins accesses with the same base.
  const addresses = new Map<string, string>()
  const at = (address: string) => {
    const known = addresses.get(address) ?? code.let('i32', `(i32.add ${address} ${column})`)
    addresses.set(address, known)
    return known
  }
  const load = (value: number, half: number) => {
    const { operation } = program.values[value]
    return operation.kind === 'load'
      ? addressing.load(operation.access, loop, half, column, at)
      : loadAt(loop, at('(local.get $scratch)'), half, passes.spills.get(value))
  }
  const known = halves.map(() => new Map<number, string>())
  for (const value of order.filter(index => passes.isLoaded(index, pass))) {
    for (const half of halves) known[half].set(value, code.let('v128', load(value, half)))
  }
  const sumsSoFar = work.columnSums.map(({ address }) =>
    halves.map(half => code.let('v128', loadAt(loop, at(address), half))),
  )
  computeVectors(
    context,
    order.filter(value => !known[0].has(value)),
    known,
  )
  const vector = (value: number, half: number) => known[half].get(value) ?? values.splat(value)
  for (const { result, input, isMax } of work.reductions) {
    for (const half of halves)
      reductions.add(result, half, code.let('v128', masked(vector(input, half), loop, isMax)))
  }
  work.columnSums.forEach(({ value, address }, i) => {
    for (const half of halves) {
      const sum = `(f32x4.add ${sumsSoFar[i][half]} ${vector(value, half)})`
      code.push(storeAt(loop, at(address), half, code.let('v128', sum)))
    }
  })
  for (const { value, access } of work.stores) {
    for (const half of halves)
      code.push(storeAt(loop, at(addressing.current(access)), half, vector(value, half)))
  }
  for (const [value, offset] of work.spills) {
    for (const half of halves)
      code.push(storeAt(loop, at('(local.get $scratch)'), half, vector(value, half), offset))
  }
}

/** Computes values, in order, for each vector of a pair. known: the vectors computed so far, to which it adds. */
function computeVectors(
  { program, code, elementwise, values }: RowContext,
  computed: readonly number[],
  known: readonly Map<number, string>[],
): void {
  const operandsOf = (value: number, half: number) =>
    program.values[value].inputs.map(input => {
      const operand = known[half].get(input) ?? values.splat(input)
      // Operands may be read many times, so they must be locals.
      return operand.startsWith('(local.get') ? operand : code.let('v128', operand)
    })
  const compute = (value: number, half: number) => {
    const { operation, inputs } = program.values[value]
    known[half].set(value, code.let('v128', values.compute(operation, operandsOf(value, half), inputs)))
  }
  const sineOf = (value: number) => {
    const { operation } = program.values[value]
    const isSine = operation.kind === 'unary' && (operation.name === 'sin' || operation.name === 'cos')
    return isSine ? operation.name : undefined
  }
  if (!computed.some(sineOf)) {
    for (const half of known.keys()) for (const value of computed) compute(value, half)
    return
  }
  // A sine has a branch, which both halves share.
  for (const value of computed) {
    const name = sineOf(value)
    if (!name) for (const half of known.keys()) compute(value, half)
    else {
      const operands = Array.from(known.keys(), half => operandsOf(value, half)[0])
      elementwise.sines(code, name, operands).forEach((sine, half) => {
        known[half].set(value, code.let('v128', sine))
      })
    }
  }
}
