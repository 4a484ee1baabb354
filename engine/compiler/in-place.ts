/** Where a row program may store a value over an operand that it loads. */
import type { Access, Buffer, RowProgram } from './program.ts'
import { isReduction, passesOf } from './row-values.ts'

/** How a row program reads one buffer. */
interface Loads {
  /** Where its elements are loaded from, if every load takes them from the same place. */
  readonly place: string | undefined
  /** The last pass over the row in which one of them may be loaded. */
  readonly lastUse: number
}

/** What has to be known of a row program to say what it may overwrite. */
interface Reading {
  /** In which pass each value is computed. */
  readonly passes: readonly number[]
  /** In the order in which the buffers are first loaded. */
  readonly loads: ReadonlyMap<Buffer, Loads>
}

const readings = new WeakMap<RowProgram, Reading>()

/**
 * Whether a row program may store a value where it loads a buffer from: every load is of the very
 * element that is stored, and none happens in a pass over the row after the one that stores.
 */
export function canStoreInPlace(work: RowProgram, loaded: Buffer, access: Access, stored: number): boolean {
  const { passes, loads } = readingOf(work)
  const found = loads.get(loaded)
  if (!found) return true
  return found.place !== undefined && found.place === placeOf(access) && found.lastUse <= passes[stored]
}

/**
 * For each store of a row program in turn, the buffers that it may overwrite are offered to take() in the order in
 * which they are loaded, until it takes one. mayTake, mayGive: whether a buffer can take over memory, or give it, at all.
 */
export function offerOperands(
  work: RowProgram,
  mayTake: (stored: Buffer) => boolean,
  mayGive: (loaded: Buffer) => boolean,
  take: (into: Buffer, from: Buffer) => boolean,
): void {
  const { passes, loads } = readingOf(work)
  const offers = new Map<string, Buffer[]>()
  for (const [buffer, { place }] of loads) {
    if (place === undefined || !mayGive(buffer)) continue
    const known = offers.get(place)
    if (known) known.push(buffer)
    else offers.set(place, [buffer])
  }
  for (const { access, value } of work.stores) {
    const { buffer } = access
    const place = placeOf(access)
    const offered = place === undefined ? undefined : offers.get(place)
    if (!buffer || !offered || !mayTake(buffer)) continue
    const taken = offered.findIndex(
      from => (loads.get(from)?.lastUse ?? 0) <= passes[value] && take(buffer, from),
    )
    if (taken >= 0) offered.splice(taken, 1)
  }
}

function readingOf(work: RowProgram): Reading {
  const known = readings.get(work)
  if (known) return known
  const { values } = work
  const passes = passesOf(values)
  // Anything but a reduction's result may be computed anew from its loads when it is next used.
  const lastUse = [...passes]
  for (let i = values.length - 1; i >= 0; i--) {
    if (isReduction(values[i])) lastUse[i] = passes[i]
    for (const input of values[i].inputs) lastUse[input] = Math.max(lastUse[input], lastUse[i])
  }
  const loads = new Map<Buffer, Loads>()
  const note = (buffer: Buffer, place: string | undefined, lastUse: number) => {
    const before = loads.get(buffer)
    loads.set(buffer, {
      place: !before || before.place === place ? place : undefined,
      lastUse: Math.max(lastUse, before?.lastUse ?? 0),
    })
  }
  values.forEach(({ operation }, i) => {
    if (operation.kind !== 'load') return
    const { buffer, gather } = operation.access
    if (buffer) note(buffer, placeOf(operation.access), lastUse[i])
    if (gather?.indices.buffer) note(gather.indices.buffer, undefined, lastUse[i])
  })
  const reading = { passes, loads }
  readings.set(work, reading)
  return reading
}

/** Where rows and columns lie in a buffer, as a text; undefined where other numbers name the rows. */
const placeOf = ({ offset, rowDims, columnStride, gather }: Access): string | undefined =>
  gather ? undefined : `${offset} ${columnStride} ${rowDims.join(';')}`
