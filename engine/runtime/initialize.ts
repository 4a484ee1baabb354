/** Random initial values of a network's parameters. Each depends only on the seed and the parameter's name. */
import type { Parameters } from './parameters.ts'
import { randomKey } from '../ops/random.ts'
import type { Tensor } from '../graph/tensor.ts'
import { Variable, variable } from './variable.ts'

/** Makes initial values from a random key, such as randomNormal with a given shape. */
export type Initializer = (key: number) => Tensor

/** A network before it is initialized: an initializer stands for each variable with random values. */
export type Description =
  Variable | Initializer | readonly Description[] | { readonly [name: string]: Description }

/** The network that initialize() returns: as described, with a variable for each initializer. */
export type Initialized<Described> = Described extends Variable | Initializer
  ? Variable
  : { [Name in keyof Described]: Initialized<Described[Name]> }

/**
 * Makes a network from its description. The key of each initializer depends only on the seed (a whole number from 0 to
 * 2^53 - 1) and on the path of its variable, such as 'blocks.0.expand', so adding or removing a parameter leaves the
 * values of all others alone. Variables in the description stay as they are.
 */
export function initialize<Described extends Description>(
  seed: number,
  described: Described,
): Initialized<Described> {
  const network: unknown = make(seed, described, '')
  // The type Initialized describes what `make` does.
  return network as Initialized<Described>
}

function make(seed: number, described: Description, path: string): Parameters {
  if (described instanceof Variable) return described
  if (typeof described === 'function') return variable(described(randomKey(seed, path)))
  const parts = Object.entries(described).map(([name, part]): [string, Parameters] => [
    name,
    make(seed, part, path ? `${path}.${name}` : name),
  ])
  return Array.isArray(described) ? parts.map(([, part]) => part) : Object.fromEntries(parts)
}
