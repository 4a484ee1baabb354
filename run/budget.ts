import {
  type Compiled,
  type CompiledProgram,
  type Inputs,
  MemoryError,
  type Part,
  type Tensor,
  compile,
  inPieces,
} from '../engine/index.ts'
import { fewestPieces } from './memory.ts'

type Tensors = Readonly<Record<string, Tensor>>

/** Means over a batch of which `body` sees one piece at a time: inPieces, with their number chosen already. */
export type MeansOf = <Means extends Tensors>(
  body: (part: Part) => Means,
) => { [Name in keyof Means]: Tensor }

/** What a function takes, and in how many pieces it goes through the batch. */
export type Budgeted = CompiledProgram & { readonly pieces: number }

/** A compiled function that keeps within some memory. */
export type WithinMemory<Outputs> = {
  (inputs: Inputs): ReturnType<Compiled<Outputs>>
  prepare(inputs: Inputs): Promise<Budgeted>
}

/**
 * compile() for functions that may take so many bytes together with all variables. Their batch goes through `meansOf`
 * in as few pieces as fit. Throws UserError, when one is called or prepared, if not even a row at a time fits.
 */
export function compilerWithin(limit: number) {
  let variableBytes = 0 // of the function that has the most
  return <Outputs extends Tensors>(
    body: (inputs: Tensors, meansOf: MeansOf) => Outputs,
  ): WithinMemory<Outputs> => {
    const functions = new Map<number, Compiled<Outputs>>()
    const functionOf = (pieces: number): Compiled<Outputs> => {
      const made = functions.get(pieces) ?? compile(inputs => body(inputs, part => inPieces(pieces, part)))
      functions.set(pieces, made)
      return made
    }

    async function choose(inputs: Inputs): Promise<Budgeted> {
      const bytesOf = async (pieces: number) => {
        const program = await planned(functionOf(pieces), inputs)
        if (!program) return Infinity
        variableBytes = Math.max(variableBytes, program.variableBytes)
        return variableBytes + program.temporaryBytes
      }
      const pieces = await fewestPieces({ rows: rowsOf(inputs), limit, bytesOf })
      return { ...(await functionOf(pieces).prepare(inputs)), pieces }
    }

    const chosen = new Map<string, Promise<Budgeted>>()
    const prepare = (inputs: Inputs): Promise<Budgeted> => {
      const key = JSON.stringify(shapesOf(inputs))
      const known = chosen.get(key) ?? choose(inputs)
      chosen.set(key, known)
      return known
    }
    return Object.assign(async (inputs: Inputs) => functionOf((await prepare(inputs)).pieces)(inputs), {
      prepare,
    })
  }
}

/** What a function takes for these inputs; undefined where that is more than can be addressed. */
async function planned(compiled: Compiled<Tensors>, inputs: Inputs): Promise<CompiledProgram | undefined> {
  try {
    return await compiled.prepare(inputs)
  } catch (error) {
    if (error instanceof MemoryError) return undefined
    throw error
  }
}

const shapesOf = (inputs: Inputs) =>
  Object.values(inputs).map(value => (typeof value === 'number' ? [] : value.shape))

/** Of the batch, which is all inputs that are no scalars. */
const rowsOf = (inputs: Inputs): number => Math.min(...shapesOf(inputs).flatMap(shape => shape.slice(0, 1)))
