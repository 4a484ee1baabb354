/** Networks as nested objects of variables. */
import { Variable } from './variable.ts'

/** A nested object or array of variables, such as a network's parameters. */
export type Parameters = Variable | readonly Parameters[] | { readonly [name: string]: Parameters }

/** The variables of a network in their order, each with its path, such as 'blocks.0.expand'. */
export function parametersOf(network: Parameters, path = ''): [name: string, parameter: Variable][] {
  if (network instanceof Variable) return [[path, network]]
  return Object.entries(network).flatMap(([name, part]) =>
    parametersOf(part, path ? `${path}.${name}` : name),
  )
}

/** The number of elements in all variables of a network. */
export const countOf = (network: Parameters): number =>
  parametersOf(network).reduce((sum, [, { size }]) => sum + size, 0)
