// Decides which buffers are packed together for horizontal fusion.
import type { Buffer } from '../../compiler/program.ts'
import { allocationsOf } from '../kernels/rows/analysis.ts'
import { type FusionCandidate, type Step, isRowProgram } from './fusion-candidates.ts'
import { type PackedBuffer, type PackedPlace, packedBufferOf, startsOf } from './packed-buffers.ts'

/** An operand of several candidates in a packed buffer. start: where the first candidate has its elements. */
export interface PackedOperand {
  readonly buffer: Buffer
  readonly start: number
}

/** Candidates in the order of their memory, with their packed operands by the first candidate's allocations. */
export interface PackedCandidates {
  readonly candidates: readonly FusionCandidate[]
  readonly operands: ReadonlyMap<Buffer, PackedOperand>
}

export class Packing {
  /** The steps that touch each buffer. */
  private readonly users = new Map<Buffer, Step[]>()
  /** The index of each member of a packed buffer. */
  private readonly indices = new WeakMap<PackedBuffer, ReadonlyMap<Buffer, number>>()
  /** The variable of each half copy. */
  private readonly variableOf: ReadonlyMap<Buffer, Buffer>
  private readonly places: Map<Buffer, PackedPlace>
  /** Variables that the program both reads and assigns. Only these may be packed, since that outlives the program. */
  private readonly updated: ReadonlySet<Buffer>

  /** places: where buffers are packed already, to which the packing adds. */
  constructor(
    steps: readonly Step[],
    halfCopies: ReadonlyMap<Buffer, Buffer>,
    places: Map<Buffer, PackedPlace>,
  ) {
    for (const step of steps) {
      for (const allocation of step.touches) {
        const known = this.users.get(allocation)
        if (known) known.push(step)
        else this.users.set(allocation, [step])
      }
    }
    this.variableOf = new Map([...halfCopies].map(([variable, copy]) => [copy, variable]))
    this.places = places
    const read = new Set(steps.flatMap(readBy))
    this.updated = new Set(
      steps.flatMap(({ writes }) =>
        [...writes].filter(allocation => allocation.variable && read.has(allocation)),
      ),
    )
  }

  /** Packs the operands in which candidates differ, if that is possible. */
  pack(given: readonly FusionCandidate[]): PackedCandidates | undefined {
    const [first, second] = given
    const differing = first.allocations.flatMap((allocation, i) =>
      allocation === second.allocations[i] ? [] : [i],
    )
    const shared = first.allocations.filter((allocation, i) => allocation === second.allocations[i])
    const candidates = this.inOrder(given, differing)
    const chosen = new Map<Buffer, PackedBuffer>()
    for (const i of differing) {
      const buffers = candidates.map(({ allocations }) => allocations[i])
      const packed = this.packedFor(buffers)
      const isTaken = (packed: PackedBuffer) =>
        [...chosen.values()].includes(packed) ||
        shared.some(allocation => this.indexIn(packed, allocation) !== undefined)
      if (!packed || isTaken(packed)) return undefined
      chosen.set(buffers[0], packed)
    }
    // Half copies have to be packed in the same order as their variables.
    for (const { members } of chosen.values()) {
      const variables = members.flatMap(copy => this.variableOf.get(copy) ?? [])
      if (variables.length > 0 && ![...chosen.values()].some(other => isSame(other.members, variables)))
        return undefined
    }
    for (const packed of chosen.values())
      for (const [member, start] of startsOf(packed.members)) this.places.set(member, { packed, start })
    const operands = new Map(
      [...chosen].map(([allocation, { buffer }]) => [
        allocation,
        { buffer, start: this.places.get(allocation)?.start ?? 0 },
      ]),
    )
    return { candidates, operands }
  }

  /** Puts candidates in the order in which an operand of theirs is packed already, if one is. */
  private inOrder(
    candidates: readonly FusionCandidate[],
    differing: readonly number[],
  ): readonly FusionCandidate[] {
    const placed = differing.find(i => candidates.every(({ allocations }) => this.places.has(allocations[i])))
    if (placed === undefined) return candidates
    const start = ({ allocations }: FusionCandidate) => this.places.get(allocations[placed])?.start ?? 0
    return candidates.toSorted((a, b) => start(a) - start(b))
  }

  /** The packed buffer that has these one after the other. A new one if none of them is packed, and all may be. */
  private packedFor(buffers: readonly Buffer[]): PackedBuffer | undefined {
    const known = this.places.get(buffers[0])?.packed
    if (known) {
      const first = this.indexIn(known, buffers[0]) ?? 0
      return isSame(known.members.slice(first, first + buffers.length), buffers) ? known : undefined
    }
    if (buffers.some(buffer => this.places.has(buffer))) return undefined
    const areVariables = buffers[0].variable !== undefined
    const mayBePacked = areVariables
      ? buffers.every(buffer => this.updated.has(buffer))
      : this.areApart(buffers)
    return mayBePacked ? packedBufferOf(buffers) : undefined
  }

  private indexIn(packed: PackedBuffer, buffer: Buffer): number | undefined {
    const indices = this.indices.get(packed) ?? new Map(packed.members.map((member, i) => [member, i]))
    this.indices.set(packed, indices)
    return indices.get(buffer)
  }

  /** Whether no kernel reads one of these and writes another: WebGPU forbids that within one GPUBuffer. */
  private areApart(buffers: readonly Buffer[]): boolean {
    const set = new Set(buffers)
    const users = new Set(buffers.flatMap(buffer => this.users.get(buffer) ?? []))
    for (const { touches, writes } of users) {
      const touched = [...touches].filter(buffer => set.has(buffer))
      const isWritten = (buffer: Buffer) => writes.has(buffer)
      if (touched.length > 1 && !touched.every(isWritten) && touched.some(isWritten)) return false
    }
    return true
  }
}

const isSame = (some: readonly Buffer[], others: readonly Buffer[]): boolean =>
  some.length === others.length && some.every((buffer, i) => buffer === others[i])

/** What a step reads. A kernel that is no row program reads what it touches and does not write. */
const readBy = ({ work, touches, writes }: Step): Buffer[] =>
  isRowProgram(work)
    ? [...allocationsOf({ ...work, stores: [], columnSums: [] })]
    : [...touches].filter(allocation => !writes.has(allocation))
