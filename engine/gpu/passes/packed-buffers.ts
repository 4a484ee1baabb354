// Buffers that lie side by side in one, so that a kernel can bind them together.
import { Buffer } from '../../compiler/program.ts'

/** A buffer that has others, its members, side by side. */
export interface PackedBuffer {
  /** All of its memory. */
  readonly buffer: Buffer
  readonly members: readonly Buffer[]
}

/** Where a buffer lies in a packed buffer; start counts elements. */
export interface PackedPlace {
  readonly packed: PackedBuffer
  readonly start: number
}

/** Members start at multiples of this many elements, so that each can be bound alone: 256 bytes of f16. */
const alignment = 128

/** Elements between the start of a member of this size and the start of the next one. */
export const paddedSize = (size: number): number => Math.ceil(size / alignment) * alignment

/** A packed buffer with these members, in this order. */
export function packedBufferOf(members: readonly Buffer[]): PackedBuffer {
  const size = members.reduce((sum, { size }) => sum + paddedSize(size), 0)
  return { buffer: new Buffer(size, members[0].dtype), members }
}

/** Where each member of a packed buffer starts. */
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
