// Plans a program for a GPU that need not be there: precision, kernels and memory.
import type { Pausing } from '../../compiler/pauses.ts'
import type { Buffer, Program } from '../../compiler/program.ts'
import { type Precision, type ProgramDispatch, type Target, bytesOf } from '../kernels/kernel.ts'
import { type BufferAssignment, assignBuffers } from './buffer-assignment.ts'
import { lower } from './lower.ts'
import type { PackedBuffer, PackedPlace } from './packed-buffers.ts'
import { type TypedProgram, assignPrecision } from './precision.ts'

/** A program as a GPU will run it. */
export interface DeviceProgram extends TypedProgram, BufferAssignment {
  readonly dispatches: readonly ProgramDispatch[]
  /** Where temporaries, variables and their half copies are packed. */
  readonly places: ReadonlyMap<Buffer, PackedPlace>
  /** Bytes of memory for the temporaries. */
  readonly temporaryBytes: number
  /** Bytes that the kernels read and write. */
  readonly bytesMoved: number
}

/** Chooses a program's precision, kernels and memory, without a GPU. placed: where other programs have packed variables. */
export function* planProgram(
  given: Program,
  precision: Precision,
  target: Target,
  placed: ReadonlyMap<Buffer, PackedPlace> = new Map(),
): Pausing<DeviceProgram> {
  const typed = assignPrecision(given, precision === 'f16', target)
  const { program, halfCopies } = typed
  const { dispatches, typeOf, places } = yield* lower(program, typed.typeOf, target, halfCopies, placed)
  const copies = new Set(halfCopies.values())
  const packedBuffers = new Map<Buffer, PackedBuffer>(
    [...places.values()].map(({ packed }) => [packed.buffer, packed]),
  )
  const isTemporary = (home: Buffer) =>
    (packedBuffers.get(home)?.members ?? [home]).every(member => !member.variable && !copies.has(member))
  const homeOf = (allocation: Buffer) => places.get(allocation)?.packed.buffer ?? allocation
  const held = [...program.inputs, ...program.outputs.map(({ buffer }) => buffer)]
  const assignment = assignBuffers(dispatches, held, homeOf, isTemporary, typeOf)
  return {
    ...typed,
    ...assignment,
    typeOf,
    dispatches,
    places,
    temporaryBytes: assignment.sizes.reduce((sum, bytes) => sum + bytes, 0),
    bytesMoved: dispatches.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}

/**
 * How many logits to keep at once: half a gibibyte of them, or as many as one tensor can have in float32. mostBytes: of a
 * tensor.
 */
export const logitsAtOnce = (precision: Precision, mostBytes: number): number =>
  Math.min(2 ** 29 / bytesOf[precision], mostBytes / bytesOf.f32)
