// Chooses how the invocations of a kernel share a row program's elements.
import type { Access, Buffer, RowProgram } from '../../../compiler/program.ts'
import type { Lanes } from '../elementwise.ts'
import type { Target } from '../kernel.ts'
import { isReduction, passesOf } from '../../../compiler/row-values.ts'
import { allocationsOf, cheapOf } from './analysis.ts'

/** How invocations share the elements of a row program. */
export interface RowPlan {
  /** Invocations in a workgroup. */
  readonly size: number
  readonly workgroups: number
  /** Neighbouring columns that are computed together, as a vector. */
  readonly lanes: Lanes
  /** Whether each invocation has one vector of one row. Otherwise teams of invocations have rows, or chunks of them. */
  readonly isFlat: boolean
  /** Invocations that share a row. */
  readonly team: number
  /** Vectors of a row that an invocation keeps in registers between passes. It computes the others in each pass. */
  readonly keptVectors: number
  /** Workgroups that share a row, where it has no reductions. */
  readonly chunks: number
}

/** The usual number of invocations in a workgroup, and the fewest. */
const usualSize = 256
const leastSize = 64
/** The most floats that an invocation keeps between passes, and the most of a workgroup, which shares its registers. */
const keptFloats = 96
const sharedFloats = 1 << 15
/** Vectors of a row for each invocation, if there are enough invocations. */
const usualVectors = 8
/** Workgroups and invocations that fill a large GPU. */
const manyWorkgroups = 512
const manyInvocations = 1 << 15
/** A cache line, in floats. */
const lineFloats = 32

export function planRows(work: RowProgram, target: Target): RowPlan {
  const { rows, columns, rowBlock, values, columnSums } = work
  const lanes = lanesOf(work)
  const units = columns / lanes
  const usual = Math.min(usualSize, powerBelow(target.workgroupSize))
  const hasReductions = values.some(isReduction)
  const isInPlace = inPlaceRowAllocations(work).size > 0
  if (!hasReductions && columnSums.length === 0 && !isInPlace) {
    const workgroups = Math.ceil((rows * units) / usual)
    return { size: usual, workgroups, lanes, isFlat: true, team: 1, keptVectors: 1, chunks: 1 }
  }
  const least = Math.min(usual, Math.max(leastSize, target.subgroups?.largest ?? 1))
  const hasSums = columnSums.length > 0
  /** Makes workgroups smaller where one would have more teams than rows, or there would be few workgroups. */
  const sized = (team: number): { size: number; workgroups: number } => {
    const count = (size: number) => (hasSums ? Math.ceil(rows / rowBlock) : Math.ceil(rows / (size / team)))
    let size = Math.max(usual, team)
    const isTooLarge = () => (hasSums ? size / 2 / team >= rowBlock : count(size) < manyWorkgroups)
    while (size / 2 >= Math.max(least, team) && isTooLarge()) size /= 2
    return { size, workgroups: count(size) }
  }
  if (!hasReductions && !isInPlace) {
    const team = Math.min(powerAbove(units), lineFloats / lanes)
    const chunks = Math.ceil(units / team)
    const { size, workgroups } = sized(team)
    return { size, workgroups: workgroups * chunks, lanes, isFlat: false, team, keptVectors: 1, chunks }
  }
  const floats = lanes * Math.max(1, keptValues(work) + columnSums.filter(({ width }) => width > 1).length)
  const fitting = (size: number) =>
    Math.max(1, Math.floor(Math.min(keptFloats, sharedFloats / size) / floats))
  // Enough invocations to keep a row in registers, to read whole cache lines, and to fill the GPU where rows are few.
  const keeping = powerAbove(Math.ceil(units / Math.min(usualVectors, fitting(usual))))
  const reading = Math.min(powerAbove(units), lineFloats / lanes)
  const filling = hasSums ? 1 : Math.min(usual, powerAbove(Math.min(units, manyInvocations / rows)))
  const team = Math.min(powerBelow(target.workgroupSize), Math.max(keeping, reading, filling))
  const { size, workgroups } = sized(team)
  const keptVectors = Math.min(Math.ceil(units / team), fitting(Math.max(usual, size)))
  return { size, workgroups, lanes, isFlat: false, team, keptVectors, chunks: 1 }
}

const powerAbove = (value: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, value)))
const powerBelow = (value: number): number => 2 ** Math.floor(Math.log2(value))

/**
 * Allocations from which the program loads one element for each row, and to which it also stores. A team's invocations all
 * load that element, so none may store before all have loaded.
 */
export function inPlaceRowAllocations({ columns, values, stores }: RowProgram): Set<Buffer> {
  const stored = new Set(stores.map(({ access }) => access.buffer?.allocation))
  const found = new Set<Buffer>()
  if (columns === 1) return found
  for (const { operation } of values) {
    if (operation.kind !== 'load' || operation.access.columnStride !== 0) continue
    const allocation = operation.access.buffer?.allocation
    if (allocation && stored.has(allocation)) found.add(allocation)
  }
  return found
}

/** The most values for each element that one pass over a row computes and a later one uses. */
function keptValues({ values, stores, columnSums }: RowProgram): number {
  const passes = passesOf(values)
  const cheap = cheapOf(values)
  const first = new Map<number, number>()
  const last = new Map<number, number>()
  const use = (value: number, pass: number) => {
    if (values[value].extent !== 'element') return
    last.set(value, Math.max(pass, last.get(value) ?? 0))
    if (first.has(value)) return
    first.set(value, pass)
    for (const input of values[value].inputs) use(input, pass)
  }
  const uses = values.flatMap((value, i) =>
    isReduction(value) ? [{ value: value.inputs[0], pass: passes[i] }] : [],
  )
  uses.push(...[...stores, ...columnSums].map(({ value }) => ({ value, pass: passes[value] })))
  for (const { value, pass } of uses.sort((a, b) => a.pass - b.pass)) use(value, pass)
  const boundaries = Array.from({ length: Math.max(0, ...passes) }, (_, pass) => pass)
  const kept = boundaries.map(
    boundary =>
      [...first].filter(
        ([value, pass]) => !cheap[value] && pass <= boundary && (last.get(value) ?? 0) > boundary,
      ).length,
  )
  return Math.max(0, ...kept)
}

/** The widest vectors in which some operand can be read or written. */
function lanesOf(work: RowProgram): Lanes {
  const fitting = ([4, 2] as const).find(
    lanes => work.columns % lanes === 0 && vectorAllocations(work, lanes).size > 0,
  )
  return fitting ?? 1
}

/** The allocations that a row program reads and writes only in aligned vectors of so many lanes. */
export function vectorAllocations(work: RowProgram, lanes: Lanes): Set<Buffer> {
  const { values, stores, columnSums, columns } = work
  const wide = new Set<Buffer>()
  const scalar = new Set<Buffer>()
  const note = (access: Access, isStore: boolean) => {
    const allocation = access.buffer?.allocation
    if (access.gather) note(access.gather.indices, false)
    if (!allocation) return
    // An element for each row can be read from a vector, but not written in it.
    if (access.columnStride === 0) {
      if (isStore) scalar.add(allocation)
    } else (isAligned(access, lanes) ? wide : scalar).add(allocation)
  }
  for (const { operation } of values) if (operation.kind === 'load') note(operation.access, false)
  for (const { access } of stores) note(access, true)
  for (const { buffer, width } of columnSums)
    (width > 1 && columns % lanes === 0 ? wide : scalar).add(buffer.allocation)
  if (lanes === 1) return new Set()
  return new Set(
    [...allocationsOf(work)].filter(
      allocation => wide.has(allocation) && !scalar.has(allocation) && allocation.size % lanes === 0,
    ),
  )
}

function isAligned({ offset, rowDims, columnStride, gather }: Access, lanes: number): boolean {
  const strides = [offset, ...rowDims.map(([, stride]) => stride), gather?.rowStride ?? 0]
  return columnStride === 1 && strides.every(stride => stride % lanes === 0)
}
