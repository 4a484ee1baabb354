/** First values of a network's parameters, each from the seed and the parameter's name. */
import type { Parameters } from './parameters.ts'
import { randomKey } from '../ops/random.ts'
import type { Tensor } from '../graph/tensor.ts'
import { Variable, variable } from './variable.ts'

/** Makes first values out of a random key, as randomNormal does. */
export type Initializer = (key: number) => Tensor

/** A network before its random values are drawn: an initializer stands for each variable that has them. */
export type Description =
  Variable | Initializer | readonly Description[] | { readonly [name: string]: Description }

/** What initialize makes of a description: the same object, but each initializer is a variable. */
export type Initialized<Described> = Described extends Variable | Initializer
  ? Variable
  : { [Name in keyof Described]: Initialized<Described[Name]> }

/**
 * Makes a network of its description. Each initializer's key follows from the seed (a whole number from 0 to 2^53 - 1)
 * and from the path of its variable, such as 'blocks.0.expand', and from nothing else: another parameter more or less
 * changes no first values but its own. Variables in the description stay as they are.
 */
export function initialize<Described extends Description>(
  seed: number,
  described: Described,
): Initialized<Described> {
  const network: unknown = make(seed, described, '')
  // Initialized says in types what `make` does to values.
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
