import type { Pausing } from '../../compiler/pauses.ts'
import type { Buffer, Program } from '../../compiler/program.ts'
import type { PackedBuffer, PackedPlace } from './packed-buffers.ts'
import type { Precision } from '../runtime/device.ts'
import { type ProgramDispatch, type Target, bytesOf } from '../kernels/kernel.ts'
import { lower } from './lower.ts'
import { type Placement, placeBuffers } from '../runtime/memory.ts'
import { type TypedProgram, assignPrecision } from './precision.ts'

/** All that is known of a program before a GPU runs it. */
export interface DeviceProgram extends TypedProgram, Placement {
  readonly dispatches: readonly ProgramDispatch[]
  /** Where buffers lie in arenas: temporaries, variables and their copies. */
  readonly places: ReadonlyMap<Buffer, PackedPlace>
  /** Bytes of the temporaries' memory. */
  readonly temporaryBytes: number
  /** Bytes that the kernels read and write. */
  readonly bytesMoved: number
}

/**
 * Chooses a program's precision, kernels and memory. Needs no GPU. placed: where other programs have variables lie.
 */
export function* planProgram(
  given: Program,
  precision: Precision,
  target: Target,
  placed: ReadonlyMap<Buffer, PackedPlace> = new Map(),
): Pausing<DeviceProgram> {
  const choice = assignPrecision(given, precision === 'f16', target)
  const { program, halfCopies } = choice
  const { dispatches, typeOf, places } = yield* lower(program, choice.typeOf, target, halfCopies, placed)
  const copies = new Set(halfCopies.values())
  const arenas = new Map<Buffer, PackedBuffer>(
    [...places.values()].map(({ packed }) => [packed.buffer, packed]),
  )
  const isTemporary = (home: Buffer) =>
    (arenas.get(home)?.members ?? [home]).every(root => !root.variable && !copies.has(root))
  const homeOf = (root: Buffer) => places.get(root)?.packed.buffer ?? root
  const held = [...program.inputs, ...program.outputs.map(({ buffer }) => buffer)]
  const placement = placeBuffers(dispatches, held, homeOf, isTemporary, typeOf)
  return {
    ...choice,
    ...placement,
    typeOf,
    dispatches,
    places,
    temporaryBytes: placement.sizes.reduce((sum, bytes) => sum + bytes, 0),
    bytesMoved: dispatches.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}

/** How many logits to keep at once: half a gibibyte of them, or as many as one tensor may have if it should be f32. */
export const logitsAtOnce = (precision: Precision, mostBytes: number): number =>
  Math.min(2 ** 29 / bytesOf[precision], mostBytes / bytesOf.f32)
