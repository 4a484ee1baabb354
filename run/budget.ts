import {
  type Compiled,
  type CompiledProgram,
  type Inputs,
  MemoryError,
  NDArray,
  type RowsOf,
  type Tensor,
  compile,
  inMicrobatches,
} from '../engine/index.ts'
import { UserError } from '../common/errors.ts'
import { showBytes } from './memory.ts'

type Tensors = Readonly<Record<string, Tensor>>

/** Means over a batch of which `body` sees one piece at a time: inPieces, with their number chosen already. */
export type MeansOf = <Means extends Tensors>(
  body: (part: RowsOf) => Means,
) => { [Name in keyof Means]: Tensor }

/** What a function takes, of how much, and in how many pieces it goes through the batch. */
export type Budgeted = CompiledProgram & {
  readonly pieces: number
  /** Bytes that it may take. */
  readonly limit: number
}

/** A compiled function that keeps within some memory. */
export type WithinMemory<Outputs> = {
  (inputs: Inputs): ReturnType<Compiled<Outputs>>
  prepare(inputs: Inputs): Promise<Budgeted>
  profile: Compiled<Outputs>['profile']
}

/**
 * compile() for functions that may take so many bytes, together with the variables of all of them: those that have the
 * most are to be prepared first. A batch, which is every input but the scalars, goes through `meansOf` in as few
 * pieces as fit. Throws UserError, when one is called or prepared, if not even a sequence at a time fits.
 */
export function compilerWithin(limit: number) {
  let variableBytes = 0
  return <Outputs extends Tensors>(
    body: (inputs: Tensors, meansOf: MeansOf) => Outputs,
  ): WithinMemory<Outputs> => {
    const compileFor = (pieces: number): Compiled<Outputs> =>
      compile(inputs => body(inputs, part => inMicrobatches(pieces, part)))

    /** Bytes that a function takes; Infinity if that is more than can be addressed. */
    async function bytesOf(compiled: Compiled<Outputs>, inputs: Inputs): Promise<number> {
      try {
        const program = await compiled.prepare(inputs)
        variableBytes = Math.max(variableBytes, program.variableBytes)
        return variableBytes + program.temporaryBytes
      } catch (error) {
        if (error instanceof MemoryError) return Infinity
        throw error
      }
    }

    /** The function for a batch, and what it takes. */
    async function choose(inputs: Inputs): Promise<{ compiled: Compiled<Outputs>; budgeted: Budgeted }> {
      const [sequences, length] = batchShape(inputs)
      let compiled = compileFor(1)
      const pieces = await fewestPieces({
        sequences,
        length,
        limit,
        bytesInPieces: pieces => bytesOf((compiled = compileFor(pieces)), inputs),
        bytesOfOne: length => bytesOf(compileFor(1), oneSequence(inputs, length)),
      })
      return { compiled, budgeted: { ...(await compiled.prepare(inputs)), variableBytes, pieces, limit } }
    }

    const choices = new Map<string, ReturnType<typeof choose>>()
    const choiceFor = (inputs: Inputs) => {
      const key = batchShape(inputs).join()
      const choice = choices.get(key) ?? choose(inputs)
      choices.set(key, choice)
      return choice
    }
    const chosenFor = async (inputs: Inputs) => (await choiceFor(inputs)).compiled
    return Object.assign(async (inputs: Inputs) => (await chosenFor(inputs))(inputs), {
      prepare: async (inputs: Inputs) => (await choiceFor(inputs)).budgeted,
      profile: async (inputs: Inputs = {}) => (await chosenFor(inputs)).profile(inputs),
    })
  }
}

/** Sequences and tokens in each: the shape of every input that is no scalar. */
function batchShape(inputs: Inputs): readonly number[] {
  const batch = Object.values(inputs).find(value => typeof value !== 'number')
  return batch?.shape ?? [1, 1]
}

/** Inputs of a batch of one sequence. */
function oneSequence(inputs: Inputs, length: number): Inputs {
  const entries = Object.entries(inputs).map(([name, value]) => {
    if (typeof value === 'number') return [name, value]
    const shape = [1, length, ...value.shape.slice(2)]
    const size = shape.reduce((product, extent) => product * extent, 1)
    return [name, new NDArray(value.dtype === 'int32' ? new Int32Array(size) : new Float32Array(size), shape)]
  })
  return Object.fromEntries(entries)
}

export type PieceRequest = {
  readonly sequences: number
  /** Tokens in each of them. */
  readonly length: number
  /** Bytes that may be taken in all. */
  readonly limit: number
  /** Bytes that the batch takes in so many pieces. */
  readonly bytesInPieces: (pieces: number) => Promise<number>
  /** Bytes that a batch of one sequence of so many tokens takes. */
  readonly bytesOfOne: (length: number) => Promise<number>
}

/**
 * The fewest pieces, or nearly, in which a batch fits the memory; what they take is planned, and nothing run. Throws
 * UserError, which says what would fit, when not even one sequence does.
 */
export async function fewestPieces(request: PieceRequest): Promise<number> {
  const { sequences, length, limit, bytesInPieces, bytesOfOne } = request
  // Some bytes stay, the others are divided by the pieces: what two numbers of pieces take tells how many.
  let before = { pieces: Infinity, bytes: 0 }
  for (let pieces = 1; ;) {
    const bytes = await bytesInPieces(pieces)
    if (bytes <= limit) return pieces
    const one = pieces === 1 ? await bytesOfOne(length) : 0
    if (one > limit) throw await sequenceTooLarge(request, one)
    if (pieces === sequences) throw tooLarge(request, bytes, ['a smaller batch'])
    const divided = (bytes - before.bytes) / (1 / pieces - 1 / before.pieces)
    const stay = bytes - divided / pieces
    const next = bytes < Infinity && stay < limit ? Math.ceil(divided / (limit - stay)) : 2 * pieces
    if (bytes < Infinity) before = { pieces, bytes }
    pieces = Math.min(sequences, Math.max(next, pieces + 1))
  }
}

async function sequenceTooLarge(request: PieceRequest, bytes: number): Promise<UserError> {
  const { length, limit, bytesOfOne } = request
  const shorter = await longestThatFits(length >> 1, limit, bytesOfOne)
  return tooLarge(request, bytes, shorter ? [`a sequence length of ${shorter}`] : [])
}

function tooLarge({ length, limit }: PieceRequest, bytes: number, remedies: readonly string[]): UserError {
  const more = bytes < Infinity ? [`--memory ${showBytes(bytes).replace(' ', '')}`] : []
  const takes = bytes < Infinity ? showBytes(bytes) : 'more than there can be'
  return new UserError(
    `${showBytes(limit)} of memory is not enough: with one sequence of ${length} tokens at a time a step takes ` +
      `${takes}. What would fit: ${[...remedies, ...more, 'a smaller network'].join(', or ')}.`,
  )
}

async function longestThatFits(
  length: number,
  limit: number,
  bytesOfOne: (length: number) => Promise<number>,
): Promise<number | undefined> {
  if (length < 8) return undefined
  return (await bytesOfOne(length)) <= limit ? length : longestThatFits(length >> 1, limit, bytesOfOne)
}
