// Puts shaders together, and shapes their dispatches.
import type { Bindings } from './bindings.ts'
import type { Target } from './kernel.ts'

/** The most workgroups that WebGPU allows in one dimension. */
export const workgroupsPerDimension = 65535

/**
 * A complete shader: the features that it enables, its declarations, and a main function with this body. The body may use
 *   group           the index of the workgroup, from 0 to workgroups - 1,
 *   thread          the index of the invocation in its workgroup,
 *   lane, subgroup, subgroup_size   where the target has subgroups: the index of the invocation in its subgroup, the
 *                   index of the subgroup in its workgroup, and the number of invocations in a subgroup.
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
  /** Invocations in a workgroup, all along x. */
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

/** The number of workgroups along x where there are too many for one dimension. */
const foldedWidth = (workgroups: number): number =>
  Math.ceil(workgroups / Math.ceil(workgroups / workgroupsPerDimension))

/** A number of workgroups as x and y. x · y may be larger; the shader ignores the surplus. */
export function dimensionsOf(workgroups: number): [x: number, y: number] {
  if (workgroups <= workgroupsPerDimension) return [workgroups, 1]
  const x = foldedWidth(workgroups)
  return [x, Math.ceil(workgroups / x)]
}
