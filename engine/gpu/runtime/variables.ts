// Where variables lie in the GPU's memory. Those that one kernel updates together are packed in one GPUBuffer.
import type { Storage } from '../../runtime/backend.ts'
import { Buffer } from '../../compiler/program.ts'
import { type PackedPlace, packedBufferOf, startsOf } from '../passes/packed-buffers.ts'
import { bytesOf } from '../kernels/kernel.ts'

/** A part of a GPUBuffer. offset: where it starts, in bytes. */
export interface MemoryRange {
  readonly buffer: GPUBuffer
  readonly offset: number
}

/** The memory of a variable, and of the half copy that products read instead. */
export class GpuStorage implements Storage {
  readonly size: number
  memory: MemoryRange
  half: MemoryRange | undefined
  /** Whether the half copy holds the variable's value. */
  isHalfCurrent = false
  /** The variables that it is packed with. */
  pack: VariablePack | undefined

  /** size: in elements. */
  constructor(size: number, buffer: GPUBuffer) {
    this.size = size
    this.memory = { buffer, offset: 0 }
  }
}

/**
 * Variables that one kernel updates together. They move into one GPUBuffer before that kernel first runs, and so do their
 * half copies if the kernel writes these.
 */
export class VariablePack {
  readonly members: readonly GpuStorage[]
  /** Undefined until they have moved. */
  memory: MemoryRange | undefined
  halfMemory: MemoryRange | undefined

  constructor(members: readonly GpuStorage[]) {
    this.members = members
    for (const member of members) member.pack = this
  }

  /** Notes that the members' values have been copied to a buffer. Returns the memory that they had. */
  moveTo(buffer: GPUBuffer): GPUBuffer[] {
    this.memory = { buffer, offset: 0 }
    const before = this.members.map(({ memory }) => memory.buffer)
    for (const [member, range] of this.ranges(buffer, bytesOf.f32)) member.memory = range
    return before
  }

  /** Gives the members' half copies a buffer, in which they are still to be made. Returns the memory that they had. */
  moveHalvesTo(buffer: GPUBuffer): GPUBuffer[] {
    this.halfMemory = { buffer, offset: 0 }
    const before = this.members.flatMap(({ half }) => half?.buffer ?? [])
    for (const [member, range] of this.ranges(buffer, bytesOf.f16)) {
      member.half = range
      member.isHalfCurrent = false
    }
    return before
  }

  /** Where each member lies in a buffer whose elements have so many bytes. */
  ranges(buffer: GPUBuffer, bytes: number): (readonly [GpuStorage, MemoryRange])[] {
    return [...startsOf(this.members)].map(([member, start]) => [member, { buffer, offset: start * bytes }])
  }
}

/** The packs of a program's variables, by the packed buffers that stand for them in its kernels. */
export class VariablePacks {
  readonly places = new Map<Buffer, PackedPlace>()
  readonly variables = new Map<Buffer, VariablePack>()
  readonly halfCopies = new Map<Buffer, VariablePack>()
  private readonly storageOf: (variable: Buffer) => GpuStorage

  /** Starts with the packs that earlier programs have made of the variables. */
  constructor(variables: readonly Buffer[], storageOf: (variable: Buffer) => GpuStorage) {
    this.storageOf = storageOf
    const known = new Map(variables.map(variable => [storageOf(variable), variable]))
    for (const pack of new Set([...known.keys()].flatMap(({ pack }) => pack ?? []))) {
      // A pack may have members that the program does not use.
      const packed = packedBufferOf(
        pack.members.map(storage => known.get(storage) ?? new Buffer(storage.size, 'float32')),
      )
      for (const [member, start] of startsOf(packed.members)) this.places.set(member, { packed, start })
      this.variables.set(packed.buffer, pack)
    }
  }

  /** Adds the packs that a plan makes. halfCopies: by variables. */
  add(places: ReadonlyMap<Buffer, PackedPlace>, halfCopies: ReadonlyMap<Buffer, Buffer>): void {
    const packedBuffers = new Set([...places.values()].map(({ packed }) => packed))
    for (const { buffer, members } of packedBuffers)
      if (members[0].variable && !this.variables.has(buffer))
        this.variables.set(buffer, new VariablePack(members.map(this.storageOf)))
    const variableOf = new Map([...halfCopies].map(([variable, copy]) => [copy, variable]))
    for (const { buffer, members } of packedBuffers) {
      const variable = variableOf.get(members[0])
      const pack = variable && this.storageOf(variable).pack
      if (pack) this.halfCopies.set(buffer, pack)
    }
  }
}
