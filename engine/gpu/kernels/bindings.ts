// The buffers that a kernel binds.
import type { Buffer } from '../../compiler/program.ts'
import type { ElementType, TypeOf } from './kernel.ts'

interface BoundArray {
  readonly allocation: Buffer
  /** The array's element type in WGSL. */
  readonly element: string
  isWritten: boolean
}

/** The buffers that a kernel under construction binds, as module-scope arrays of WGSL. */
export class Bindings {
  private readonly typeOf: TypeOf
  private readonly bound: BoundArray[] = []

  constructor(typeOf: TypeOf) {
    this.typeOf = typeOf
  }

  /**
   * The name of the array for a buffer's memory: an array<f32>, with lanes an array<vec4<f32>>, and so on. Buffers of the
   * same allocation share an array. Throws if memory that the kernel writes is asked for with different lanes.
   */
  name(buffer: Buffer, { writes = false, lanes = 1 }: { writes?: boolean; lanes?: 1 | 2 | 4 } = {}): string {
    const { allocation } = buffer
    const type = this.typeOf(allocation)
    const element = lanes === 1 ? type : `vec${lanes}<${type}>`
    const same = this.bound.filter(other => other.allocation === allocation)
    const found = same.find(other => other.element === element)
    if (same.some(other => other !== found && (writes || other.isWritten)))
      throw new Error('a kernel sees memory that it writes in two ways')
    if (found) found.isWritten ||= writes
    else this.bound.push({ allocation, element, isWritten: writes })
    return `buffer${found ? this.bound.indexOf(found) : this.bound.length - 1}`
  }

  type(buffer: Buffer): ElementType {
    return this.typeOf(buffer.allocation)
  }

  /** One for each binding. An allocation may be bound twice, with different lanes. */
  get buffers(): Buffer[] {
    return this.bound.map(({ allocation }) => allocation)
  }

  get writes(): Buffer[] {
    return this.bound.filter(({ isWritten }) => isWritten).map(({ allocation }) => allocation)
  }

  /** The module-scope declarations. Read this after all calls of name(). */
  get declarations(): string {
    // Variables may be packed in one GPUBuffer, and WebGPU wants all bindings of that to have the same access.
    const assigns = this.bound.some(({ allocation, isWritten }) => isWritten && allocation.variable)
    const isOnce = (allocation: Buffer) =>
      this.buffers.indexOf(allocation) === this.buffers.lastIndexOf(allocation)
    const access = ({ allocation, isWritten }: BoundArray) =>
      isWritten || (assigns && allocation.variable && isOnce(allocation)) ? 'read_write' : 'read'
    return this.bound
      .map(
        (bound, i) =>
          `@group(0) @binding(${i}) var<storage, ${access(bound)}> buffer${i}: array<${bound.element}>;`,
      )
      .join('\n')
  }
}
