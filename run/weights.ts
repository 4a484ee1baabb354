import { type Parameters, type Variable, parametersOf } from '../engine/index.ts'
import { UserError } from './errors.ts'
import { snakeCase } from './names.ts'
import { type Safetensors, openSafetensors } from './safetensors.ts'

/**
 * A network's variables by the names that the same network in PyTorch has in its state_dict. The path in the
 * nested object is the name, in snake case; what PyTorch has modules for (embeddings, norms, the output layer)
 * keeps its numbers under .weight there, and a bare parameter does not:
 *
 *     embedding.weight   blocks.0.norm.weight   blocks.0.expand   blocks.0.position_bias   output.weight
 */
export function namedWeights(network: Parameters): [name: string, variable: Variable][] {
  return parametersOf(network).map(([path, variable]) => [stateDictName(path), variable])
}

function stateDictName(path: string): string {
  const name = snakeCase(path)
  return /(^|\.)(embedding|norm|output|ngrams\.\d+)$/.test(name) ? `${name}.weight` : name
}

/**
 * Gives a network the weights of a .safetensors file, which must have all of them, in the same shapes, and no others.
 * What an optimizer has in a checkpoint is left alone.
 */
export async function loadWeights(path: string, network: Parameters): Promise<void> {
  const file = await openSafetensors(path)
  try {
    const weights = namedWeights(network)
    refuseLeftovers(path, file, weights, name => name.startsWith('optimizer.'))
    await readInto(path, file, weights)
  } finally {
    await file.close()
  }
}

/** Throws UserError if a file has tensors which none of the variables takes: it is of another network. */
export function refuseLeftovers(
  path: string,
  { shapes }: Safetensors,
  variables: readonly (readonly [name: string, variable: Variable])[],
  isAllowed: (name: string) => boolean,
): void {
  const taken = new Set(variables.map(([name]) => name))
  const left = [...shapes.keys()].filter(name => !taken.has(name) && !isAllowed(name))
  if (left.length === 0) return
  throw new UserError(`${path} is of another network: it has ${list(left)}, which this one has no place for.`)
}

/** Gives variables the values that the file has for them. Nothing is written unless everything fits. */
export async function readInto(
  path: string,
  file: Safetensors,
  variables: readonly (readonly [name: string, variable: Variable])[],
): Promise<void> {
  for (const [name, { shape }] of variables) {
    const found = file.shapes.get(name)
    if (!found) {
      throw new UserError(
        `${path} has no ${name}, which this network needs: it has ${list([...file.shapes.keys()])}.`,
      )
    }
    if (found.join() !== shape.join()) {
      throw new UserError(
        `${path} is of another network: its ${name} is [${found}], and here it is [${shape}].`,
      )
    }
  }
  for (const [name, variable] of variables) await variable.write(await file.read(name))
}

const list = (names: readonly string[]) =>
  names.length > 6
    ? `${names.slice(0, 6).join(', ')} and ${names.length - 6} more`
    : names.join(', ') || 'none'
