/** Finds where a row program may store a result over an operand that it loads. */
import type { Access, Buffer, RowProgram } from './program.ts'
import { isReduction, passesOf } from './row-values.ts'

/** How a row program reads one buffer. */
interface Loads {
  /** The offset and strides of all loads; undefined if they differ. */
  readonly place: string | undefined
  /** The last pass over the row in which it may be loaded. */
  readonly lastUse: number
}

/** How a row program reads its operands. */
interface Reading {
  /** The pass in which each value is computed. */
  readonly passes: readonly number[]
  /** In the order in which the buffers are first loaded. */
  readonly loads: ReadonlyMap<Buffer, Loads>
}

const readings = new WeakMap<RowProgram, Reading>()

/**
 * Whether a row program may store a value over a buffer that it loads. It may if every load is of the element that is
 * stored at the time, and none happens in a pass over the row after the one that stores.
 */
export function canStoreInPlace(work: RowProgram, loaded: Buffer, access: Access, stored: number): boolean {
  const { passes, loads } = readingOf(work)
  const found = loads.get(loaded)
  if (!found) return true
  return found.place !== undefined && found.place === placeOf(access) && found.lastUse <= passes[stored]
}

/**
 * For each store of a row program, calls take() with the buffers that it may overwrite, in the order in which they are
 * loaded, until take() accepts one. mayTake and mayGive: whether a buffer may reuse memory, or lend its own, at all.
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
  // Any value but a reduction may be recomputed from its loads wherever it is used.
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

/** Offset and strides as a string; undefined for a gather. */
const placeOf = ({ offset, rowDims, columnStride, gather }: Access): string | undefined =>
  gather ? undefined : `${offset} ${columnStride} ${rowDims.join(';')}`
