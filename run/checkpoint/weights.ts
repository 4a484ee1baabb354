/** Names a network's variables as PyTorch does, and loads their values from .safetensors files. */
import { type NDArray, type Parameters, type Variable, parametersOf } from '../../engine/index.ts'
import { UserError } from '../../common/errors.ts'
import { snakeCase } from '../../common/names.ts'
import { warn as warnUser } from '../../common/printable.ts'
import { type Safetensors, floatTypes, openSafetensors } from './safetensors.ts'

/**
 * A network's variables by their names in the state_dict of the same network in PyTorch. A name is the path in the nested
 * object, in snake case. The weights of PyTorch's modules (embeddings, norms, the output layer) are called .weight there;
 * a bare parameter has no such suffix:
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
 * Loads a network's weights from a .safetensors file. Throws a UserError unless the file has all of them, with the same
 * shapes and finite values, and no other weights except an optimizer's. Calls `warn` for tensors that cannot be weights,
 * such as integers.
 */
export async function loadWeights(
  path: string,
  network: Parameters,
  warn: (message: string) => void = warnUser,
): Promise<void> {
  const file = await openSafetensors(path)
  try {
    const weights = namedWeights(network)
    const isWeight = (name: string) =>
      floatTypes.includes(file.dtypes.get(name) ?? '') && file.shapes.get(name)?.includes(0) === false
    const isOfOptimizer = (name: string) => name.startsWith('optimizer.')
    refuseLeftovers(path, file, weights, name => isOfOptimizer(name) || !isWeight(name))
    await readInto(path, file, weights, (name, { data }) => {
      const wrong = data.findIndex(number => !Number.isFinite(number))
      if (wrong < 0) return
      throw new UserError(
        `${path} has no numbers to start from: in ${name}, number ${wrong} is ${data[wrong]} as float32.`,
      )
    })
    const used = new Set(weights.map(([name]) => name))
    const unused = [...file.shapes.keys()].filter(name => !used.has(name) && !isOfOptimizer(name))
    if (unused.length > 0) {
      warn(`Not used of ${path}: ${list(unused)}, which this network does not have.`)
    }
  } finally {
    await file.close()
  }
}

/** Throws a UserError if a file has tensors for which there is no variable: it belongs to another network. */
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

/**
 * Sets variables to their values in a file. Throws a UserError, and changes nothing, unless all names, shapes and dtypes
 * match. `check` is called with the values of each variable before they are written.
 */
export async function readInto(
  path: string,
  file: Safetensors,
  variables: readonly (readonly [name: string, variable: Variable])[],
  check: (name: string, values: NDArray) => void = () => {},
): Promise<void> {
  for (const [name, { shape, dtype }] of variables) {
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
    const wanted = dtype === 'int32' ? ['I32'] : floatTypes
    const has = file.dtypes.get(name) ?? ''
    if (!wanted.includes(has)) {
      throw new UserError(
        `${path} has ${name} as ${has}, and this network takes ${wanted.join(', ')}: convert it first.`,
      )
    }
  }
  for (const [name, variable] of variables) {
    const values = await file.read(name)
    check(name, values)
    await variable.write(values)
  }
}

const list = (names: readonly string[]) =>
  names.length > 6
    ? `${names.slice(0, 6).join(', ')} and ${names.length - 6} more`
    : names.join(', ') || 'none'
