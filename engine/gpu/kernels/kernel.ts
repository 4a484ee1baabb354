import type { Buffer, Instruction } from '../../compiler/program.ts'

/** How a number lies in the GPU's memory. */
export type ElementType = 'f32' | 'f16' | 'i32'

export const bytesOf: Readonly<Record<ElementType, number>> = { f32: 4, f16: 2, i32: 4 }

/** What kernels are written for: what the adapter offers, and what was asked for. */
export interface Target {
  /** Whether shaders know f16. */
  readonly f16: boolean
  /** The sizes that subgroups may have; undefined where there are none. */
  readonly subgroups: { readonly smallest: number; readonly largest: number } | undefined
  /**
   * A shape of f16 matrices that a subgroup multiplies into float32 sums; undefined where there is none, or products are
   * to be float32.
   */
  readonly subgroupMatrix: { readonly m: number; readonly n: number; readonly k: number } | undefined
  /** Invocations in a workgroup, at most. */
  readonly workgroupSize: number
  /** Bytes of memory that a workgroup shares, at most. */
  readonly workgroupBytes: number
  /** Buffers that a kernel may use, at most. */
  readonly bindings: number
}

/** A compute shader, specialised to its shapes. */
export interface Kernel {
  /** Says what it computes, and is the same for the same code only. */
  readonly name: string
  readonly code: string
}

/** A kernel over its buffers. It follows those before it that wrote what it reads. */
export interface Dispatch {
  readonly kernel: Kernel
  /** In the order of the bindings. */
  readonly buffers: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly workgroups: number
  /** Floating-point operations, where it is made of products. */
  readonly flops: number
  /** Bytes read and written, each element that is touched once. */
  readonly bytes: number
}

/** A kernel of a program, and the instructions that it executes or is part of. */
export interface ProgramDispatch extends Dispatch {
  readonly instructions: readonly Instruction[]
}

/** The element type of each buffer's memory. */
export type TypeOf = (buffer: Buffer) => ElementType

/** The buffers that a kernel in the making uses, as WGSL's module-scope arrays. */
export class Bindings {
  private readonly typeOf: TypeOf
  private readonly bound: { root: Buffer; element: string; isWritten: boolean }[] = []

  constructor(typeOf: TypeOf) {
    this.typeOf = typeOf
  }

  /**
   * The name of the array that is a buffer's memory, array<f32>, or with lanes array<vec4<f32>> and so on. Buffers that
   * share memory are one array. Throws when one that is written is asked for with different lanes.
   */
  name(buffer: Buffer, { writes = false, lanes = 1 }: { writes?: boolean; lanes?: 1 | 2 | 4 } = {}): string {
    const { allocation } = buffer
    const type = this.typeOf(allocation)
    const element = lanes === 1 ? type : `vec${lanes}<${type}>`
    const same = this.bound.filter(other => other.root === allocation)
    const found = same.find(other => other.element === element)
    if (same.some(other => other !== found && (writes || other.isWritten)))
      throw new Error('a kernel sees memory that it writes in two ways')
    if (found) found.isWritten ||= writes
    else this.bound.push({ root: allocation, element, isWritten: writes })
    return `buffer${found ? this.bound.indexOf(found) : this.bound.length - 1}`
  }

  type(buffer: Buffer): ElementType {
    return this.typeOf(buffer.allocation)
  }

  /** One for each binding; a buffer may be bound twice. */
  get buffers(): Buffer[] {
    return this.bound.map(({ root }) => root)
  }

  get writes(): Buffer[] {
    return this.bound.filter(({ isWritten }) => isWritten).map(({ root }) => root)
  }

  /** The module-scope declarations. To be asked for when all are named. */
  get declarations(): string {
    // Variables may lie in one GPUBuffer, which WebGPU wants bound in one way; but no element twice.
    const assigns = this.bound.some(({ root, isWritten }) => isWritten && root.variable)
    const isOnce = (root: Buffer) => this.buffers.indexOf(root) === this.buffers.lastIndexOf(root)
    const access = ({ root, isWritten }: { root: Buffer; isWritten: boolean }) =>
      isWritten || (assigns && root.variable && isOnce(root)) ? 'read_write' : 'read'
    return this.bound
      .map(
        (bound, i) =>
          `@group(0) @binding(${i}) var<storage, ${access(bound)}> buffer${i}: array<${bound.element}>;`,
      )
      .join('\n')
  }
}

/** The most workgroups that WebGPU takes in one dimension. */
export const workgroupsPerDimension = 65535

/**
 * A whole shader: the features that it needs, declarations, and a main function with this body, which may use
 *   group           index of the workgroup, from 0 to workgroups - 1,
 *   thread          index of the invocation in it,
 *   lane, subgroup, subgroup_size   where the target has subgroups: index in the subgroup, of the subgroup in the
 *                   workgroup, and invocations in a subgroup.
 */
export function shader({
  bindings,
  target,
  size,
  workgroups,
  declarations = '',
  body,
  subgroupMatrix = false,
}: {
  bindings: Bindings
  target: Target
  /** Invocations in a workgroup; their x is all there is. */
  size: number
  workgroups: number
  /** Module-scope variables and functions. */
  declarations?: string
  body: string
  subgroupMatrix?: boolean
}): string {
  const all = `${declarations}\n${body}`
  const usesSubgroups = target.subgroups !== undefined && (subgroupMatrix || /\bsubgroup|\blane\b/.test(all))
  const enables = [
    ...(/\bf16\b/.test(`${all} ${bindings.declarations}`) ? ['enable f16;'] : []),
    ...(usesSubgroups ? ['enable subgroups;'] : []),
    ...(subgroupMatrix ? ['enable chromium_experimental_subgroup_matrix;'] : []),
    ...(subgroupMatrix ? ['diagnostic(off, chromium.subgroup_matrix_uniformity);'] : []),
    ...(usesSubgroups ? ['diagnostic(off, subgroup_uniformity);'] : []),
  ]
  const parameters = [
    '@builtin(workgroup_id) workgroup: vec3u',
    '@builtin(local_invocation_index) thread: u32',
    ...(usesSubgroups && target.subgroups
      ? [
          '@builtin(subgroup_invocation_id) lane: u32',
          '@builtin(subgroup_id) subgroup: u32',
          '@builtin(subgroup_size) subgroup_size: u32',
        ]
      : []),
  ]
  const isFolded = workgroups > workgroupsPerDimension
  const index = isFolded ? `workgroup.x + workgroup.y * ${foldedWidth(workgroups)}u` : 'workgroup.x'
  const guard = isFolded ? `\n  if (group >= ${workgroups}u) { return; }` : ''
  return `${enables.join('\n')}
${bindings.declarations}
${declarations}
@compute @workgroup_size(${size})
fn main(${parameters.join(', ')}) {
  let group = ${index};${guard}
${body}
}
`
}

/** How many workgroups a dispatch has in x when there are too many for one dimension. */
const foldedWidth = (workgroups: number): number =>
  Math.ceil(workgroups / Math.ceil(workgroups / workgroupsPerDimension))

/** A number of workgroups as x and y. */
export function dimensionsOf(workgroups: number): [x: number, y: number] {
  if (workgroups <= workgroupsPerDimension) return [workgroups, 1]
  const x = foldedWidth(workgroups)
  return [x, Math.ceil(workgroups / x)]
}
