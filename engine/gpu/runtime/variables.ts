import type { Storage } from '../../runtime/backend.ts'
import { Buffer } from '../../compiler/program.ts'
import { type PackedPlace, packedBufferOf, startsOf } from '../passes/packed-buffers.ts'
import { bytesOf } from '../kernels/kernel.ts'

/** Some of a GPUBuffer: where it starts, in bytes. */
export interface Range {
  readonly buffer: GPUBuffer
  readonly offset: number
}

/** Memory of a variable, and the copy of it that products read. */
export class GpuStorage implements Storage {
  readonly size: number
  memory: Range
  half: Range | undefined
  /** Whether half holds what memory does. */
  isHalfCurrent = false
  /** The variables beside which it is to lie. */
  family: Family | undefined

  /** size: in elements. */
  constructor(size: number, buffer: GPUBuffer) {
    this.size = size
    this.memory = { buffer, offset: 0 }
  }
}

/**
 * Variables that one kernel updates together: they move next to each other, into one GPUBuffer, before it first runs.
 * So do their f16 copies if it writes those.
 */
export class Family {
  readonly members: readonly GpuStorage[]
  /** Undefined until they have been moved. */
  memory: Range | undefined
  halfMemory: Range | undefined

  constructor(members: readonly GpuStorage[]) {
    this.members = members
    for (const member of members) member.family = this
  }

  /** Has the members in a buffer, where their values have been copied to. Gives the memory that they had. */
  moveTo(buffer: GPUBuffer): GPUBuffer[] {
    this.memory = { buffer, offset: 0 }
    const before = this.members.map(({ memory }) => memory.buffer)
    for (const [member, range] of this.ranges(buffer, bytesOf.f32)) member.memory = range
    return before
  }

  /** Has the members' copies in a buffer, where they are still to be made. Gives the memory that they had. */
  moveHalvesTo(buffer: GPUBuffer): GPUBuffer[] {
    this.halfMemory = { buffer, offset: 0 }
    const before = this.members.flatMap(({ half }) => half?.buffer ?? [])
    for (const [member, range] of this.ranges(buffer, bytesOf.f16)) {
      member.half = range
      member.isHalfCurrent = false
    }
    return before
  }

  /** Where each member lies in a buffer of elements of so many bytes. */
  ranges(buffer: GPUBuffer, bytes: number): (readonly [GpuStorage, Range])[] {
    return [...startsOf(this.members)].map(([member, start]) => [member, { buffer, offset: start * bytes }])
  }
}

/** Families of the variables of a program: by the arenas that its kernels have in their place. */
export class Families {
  readonly places = new Map<Buffer, PackedPlace>()
  readonly variables = new Map<Buffer, Family>()
  readonly halves = new Map<Buffer, Family>()
  private readonly homeOf: (root: Buffer) => GpuStorage

  /** Those that variables are in already. */
  constructor(variables: readonly Buffer[], homeOf: (root: Buffer) => GpuStorage) {
    this.homeOf = homeOf
    const roots = new Map(variables.map(root => [homeOf(root), root]))
    for (const family of new Set([...roots.keys()].flatMap(({ family }) => family ?? []))) {
      // Others may be in it that the program does not use.
      const arena = packedBufferOf(
        family.members.map(home => roots.get(home) ?? new Buffer(home.size, 'float32')),
      )
      for (const [root, start] of startsOf(arena.members)) this.places.set(root, { packed: arena, start })
      this.variables.set(arena.buffer, family)
    }
  }

  /** Adds those that a plan makes. halves: f16 copies by variables. */
  add(places: ReadonlyMap<Buffer, PackedPlace>, halves: ReadonlyMap<Buffer, Buffer>): void {
    const arenas = new Set([...places.values()].map(({ packed }) => packed))
    for (const { buffer, members } of arenas)
      if (members[0].variable && !this.variables.has(buffer))
        this.variables.set(buffer, new Family(members.map(this.homeOf)))
    const copied = new Map([...halves].map(([root, half]) => [half, root]))
    for (const { buffer, members } of arenas) {
      const variable = copied.get(members[0])
      const family = variable && this.homeOf(variable).family
      if (family) this.halves.set(buffer, family)
    }
  }
}
