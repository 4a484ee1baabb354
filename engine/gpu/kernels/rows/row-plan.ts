import type { Access, Buffer, RowProgram } from '../../../compiler/program.ts'
import type { Lanes } from '../elementwise.ts'
import type { Target } from '../kernel.ts'
import { cheapOf, rootsOf } from '../../passes/row-programs.ts'
import { isReduction, passesOf } from '../../../compiler/row-values.ts'

/** How the elements of a row program are shared out among invocations. */
export interface RowPlan {
  /** Invocations in a workgroup. */
  readonly size: number
  readonly workgroups: number
  /** Neighbouring columns that are computed together, as a vector. */
  readonly lanes: Lanes
  /** flat: an invocation has one vector of one row. Else teams of invocations have whole rows, or chunks of them. */
  readonly isFlat: boolean
  /** Invocations that share a row. */
  readonly team: number
  /** Vectors of a row that an invocation keeps in registers from pass to pass; the rest it computes anew in each. */
  readonly parts: number
  /** Workgroups that share a row, where no sum over it is wanted. */
  readonly chunks: number
}

/** Invocations in a workgroup, where nothing speaks for more or fewer. */
const usualSize = 256
const leastSize = 64
/** Floats that an invocation keeps between passes, at most; and all those of a workgroup, which share its registers. */
const keptFloats = 96
const sharedFloats = 1 << 15
/** Vectors of a row that an invocation has, if there are invocations enough. */
const usualParts = 8
/** Workgroups and invocations that fill a large GPU. */
const manyWorkgroups = 512
const manyInvocations = 1 << 15
/** Bytes side by side that memory likes to be read in, as floats. */
const lineFloats = 32

export function planRows(work: RowProgram, target: Target): RowPlan {
  const { rows, columns, rowBlock, values, columnSums } = work
  const lanes = lanesOf(work)
  const units = columns / lanes
  const usual = Math.min(usualSize, powerBelow(target.workgroupSize))
  const hasReductions = values.some(isReduction)
  const isPinned = pinnedRoots(work).size > 0
  if (!hasReductions && columnSums.length === 0 && !isPinned) {
    const workgroups = Math.ceil((rows * units) / usual)
    return { size: usual, workgroups, lanes, isFlat: true, team: 1, parts: 1, chunks: 1 }
  }
  const least = Math.min(usual, Math.max(leastSize, target.subgroups?.largest ?? 1))
  const hasSums = columnSums.length > 0
  /** Fewer invocations where a workgroup would have more teams than rows, or there would be few workgroups. */
  const sized = (team: number): { size: number; workgroups: number } => {
    const count = (size: number) => (hasSums ? Math.ceil(rows / rowBlock) : Math.ceil(rows / (size / team)))
    let size = Math.max(usual, team)
    const isTooLarge = () => (hasSums ? size / 2 / team >= rowBlock : count(size) < manyWorkgroups)
    while (size / 2 >= Math.max(least, team) && isTooLarge()) size /= 2
    return { size, workgroups: count(size) }
  }
  if (!hasReductions && !isPinned) {
    const team = Math.min(powerAbove(units), lineFloats / lanes)
    const chunks = Math.ceil(units / team)
    const { size, workgroups } = sized(team)
    return { size, workgroups: workgroups * chunks, lanes, isFlat: false, team, parts: 1, chunks }
  }
  const floats = lanes * Math.max(1, keptValues(work) + columnSums.filter(({ width }) => width > 1).length)
  const fitting = (size: number) =>
    Math.max(1, Math.floor(Math.min(keptFloats, sharedFloats / size) / floats))
  // Few enough to keep their vectors in registers, but reading whole lines; more where rows are few.
  const keeping = powerAbove(Math.ceil(units / Math.min(usualParts, fitting(usual))))
  const reading = Math.min(powerAbove(units), lineFloats / lanes)
  const filling = hasSums ? 1 : Math.min(usual, powerAbove(Math.min(units, manyInvocations / rows)))
  const team = Math.min(powerBelow(target.workgroupSize), Math.max(keeping, reading, filling))
  const { size, workgroups } = sized(team)
  const parts = Math.min(Math.ceil(units / team), fitting(Math.max(usual, size)))
  return { size, workgroups, lanes, isFlat: false, team, parts, chunks: 1 }
}

export const powerAbove = (value: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, value)))
const powerBelow = (value: number): number => 2 ** Math.floor(Math.log2(value))

/** Memory that is stored to where other invocations load it, as what is one for a whole row. */
export function pinnedRoots({ columns, values, stores }: RowProgram): Set<Buffer> {
  const stored = new Set(stores.map(({ access }) => access.buffer?.allocation))
  const pinned = new Set<Buffer>()
  if (columns === 1) return pinned
  for (const { operation } of values) {
    if (operation.kind !== 'load' || operation.access.columnStride !== 0) continue
    const root = operation.access.buffer?.allocation
    if (root && stored.has(root)) pinned.add(root)
  }
  return pinned
}

/** How many values for each element are made in one pass over a row and used in a later one, at most. */
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
    lanes => work.columns % lanes === 0 && vectorRoots(work, lanes).size > 0,
  )
  return fitting ?? 1
}

/** The memory of which every element that a row program touches can be read or written in vectors of so many lanes. */
export function vectorRoots(work: RowProgram, lanes: Lanes): Set<Buffer> {
  const { values, stores, columnSums, columns } = work
  const wide = new Set<Buffer>()
  const scalar = new Set<Buffer>()
  const note = (access: Access, isStore: boolean) => {
    const root = access.buffer?.allocation
    if (access.gather) note(access.gather.indices, false)
    if (!root) return
    // One for a row can be read from a vector, but not written in it.
    if (access.columnStride === 0) {
      if (isStore) scalar.add(root)
    } else (isAligned(access, lanes) ? wide : scalar).add(root)
  }
  for (const { operation } of values) if (operation.kind === 'load') note(operation.access, false)
  for (const { access } of stores) note(access, true)
  for (const { buffer, width } of columnSums)
    (width > 1 && columns % lanes === 0 ? wide : scalar).add(buffer.allocation)
  if (lanes === 1) return new Set()
  return new Set(
    [...rootsOf(work)].filter(root => wide.has(root) && !scalar.has(root) && root.size % lanes === 0),
  )
}

function isAligned({ offset, rowDims, columnStride, gather }: Access, lanes: number): boolean {
  const strides = [offset, ...rowDims.map(([, stride]) => stride), gather?.rowStride ?? 0]
  return columnStride === 1 && strides.every(stride => stride % lanes === 0)
}
