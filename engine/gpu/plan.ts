import type { Buffer, Program } from '../program.ts'
import type { Precision } from './device.ts'
import type { Dispatch, Target } from './kernel.ts'
import { lower } from './lower.ts'
import { type Placement, placeBuffers } from './memory.ts'
import { type Typed, typed } from './precision.ts'

/** All that is known of a program before a GPU runs it. */
export interface Plan extends Typed, Placement {
  readonly dispatches: readonly Dispatch[]
  /** Bytes of the temporaries' memory. */
  readonly temporaryBytes: number
  /** Bytes that the kernels read and write. */
  readonly bytesMoved: number
}

/** Chooses a program's precision, kernels and memory. Needs no GPU. */
export function plan(given: Program, precision: Precision, target: Target): Plan {
  const choice = typed(given, precision === 'f16')
  const { program, typeOf, halves } = choice
  const dispatches = lower(program, typeOf, target)
  const copies = new Set(halves.values())
  const isTemporary = (root: Buffer) => !root.variable && !copies.has(root)
  const held = [...program.inputs, ...program.outputs.map(({ buffer }) => buffer)]
  const placement = placeBuffers(dispatches, held, isTemporary, typeOf)
  return {
    ...choice,
    ...placement,
    dispatches,
    temporaryBytes: placement.sizes.reduce((sum, bytes) => sum + bytes, 0),
    bytesMoved: dispatches.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}
