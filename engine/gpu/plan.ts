import type { Pausing } from '../pauses.ts'
import type { Buffer, Program } from '../program.ts'
import type { Arena, Place } from './arenas.ts'
import type { Precision } from './device.ts'
import { type Dispatch, type Target, bytesOf } from './kernel.ts'
import { lower } from './lower.ts'
import { type Placement, placeBuffers } from './memory.ts'
import { type Typed, typed } from './precision.ts'

/** All that is known of a program before a GPU runs it. */
export interface Plan extends Typed, Placement {
  readonly dispatches: readonly Dispatch[]
  /** Where buffers lie in arenas: temporaries, variables and their copies. */
  readonly places: ReadonlyMap<Buffer, Place>
  /** Bytes of the temporaries' memory. */
  readonly temporaryBytes: number
  /** Bytes that the kernels read and write. */
  readonly bytesMoved: number
}

/**
 * Chooses a program's precision, kernels and memory. Needs no GPU. placed: where other programs have variables lie.
 */
export function* plan(
  given: Program,
  precision: Precision,
  target: Target,
  placed: ReadonlyMap<Buffer, Place> = new Map(),
): Pausing<Plan> {
  const choice = typed(given, precision === 'f16', target)
  const { program, halves } = choice
  const { dispatches, typeOf, places } = yield* lower(program, choice.typeOf, target, halves, placed)
  const copies = new Set(halves.values())
  const arenas = new Map<Buffer, Arena>([...places.values()].map(({ arena }) => [arena.buffer, arena]))
  const isTemporary = (home: Buffer) =>
    (arenas.get(home)?.members ?? [home]).every(root => !root.variable && !copies.has(root))
  const homeOf = (root: Buffer) => places.get(root)?.arena.buffer ?? root
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
