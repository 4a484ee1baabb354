import { Buffer } from '../../compiler/program.ts'

/** Buffers side by side in one, so that a kernel binds it for all of them. */
export interface PackedBuffer {
  /** The whole of it. */
  readonly buffer: Buffer
  readonly members: readonly Buffer[]
}

/** Where a buffer lies in an arena, in elements. */
export interface PackedPlace {
  readonly packed: PackedBuffer
  readonly start: number
}

/** Members start at multiples of this many elements, so that they can be bound by themselves: 256 bytes of f16. */
const alignment = 128

/** Elements from where a member of so many starts to where the next one does. */
export const paddedSize = (size: number): number => Math.ceil(size / alignment) * alignment

/** An arena for buffers in this order. */
export function packedBufferOf(members: readonly Buffer[]): PackedBuffer {
  const size = members.reduce((sum, { size }) => sum + paddedSize(size), 0)
  return { buffer: new Buffer(size, members[0].dtype), members }
}

/** Where each of an arena's members starts in it. */
export function startsOf<Member extends { readonly size: number }>(
  members: readonly Member[],
): Map<Member, number> {
  let next = 0
  const starts = new Map<Member, number>()
  for (const member of members) {
    starts.set(member, next)
    next += paddedSize(member.size)
  }
  return starts
}
