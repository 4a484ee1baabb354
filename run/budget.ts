/** Compiles functions so that they keep within the memory a run may take, by splitting their batches. */
import {
  type Compiled,
  type CompiledProgram,
  type Inputs,
  MemoryError,
  NDArray,
  type Tensor,
  compile,
  inMicrobatches,
} from '../engine/index.ts'
import { UserError } from '../common/errors.ts'
import { memoryLimit, showBytes } from './memory.ts'

type Tensors = Readonly<Record<string, Tensor>>

/** The memory that a run's compiled functions share. */
export type MemoryBudget = {
  /** Bytes of variables and temporaries together. */
  readonly limit: number
  /** Bytes of the variables, as far as they are known: the most that one function uses. */
  variableBytes: number
}

/** What --memory allows, or else what the backend usually has. */
export const memoryBudget = (...given: Parameters<typeof memoryLimit>): MemoryBudget => ({
  limit: memoryLimit(...given),
  variableBytes: 0,
})

/** A program, the number of microbatches that its batch is split into, and the bytes it may take. */
export type BudgetedProgram = CompiledProgram & {
  readonly microbatches: number
  readonly limit: number
}

/** A compiled function that keeps within a memory budget. */
export type CompiledWithin<Outputs> = {
  (inputs: Inputs): ReturnType<Compiled<Outputs>>
  prepare(inputs: Inputs): Promise<BudgetedProgram>
  profile: Compiled<Outputs>['profile']
}

/** How many microbatches the function that is being traced splits its batch into. */
let microbatches = 1

/**
 * Means over a batch: `body` returns means over the rows that it is given of the batch's tensors, float32 scalars.
 * In a function of compileWithin() the batch goes through in as many microbatches as memory asks for. A microbatch runs
 * forward and backward before the next one starts, so that memory holds the temporaries of one at a time.
 */
export const microbatched = <Means extends Tensors>(
  body: (...rows: Tensor[]) => Means,
  ...batch: Tensor[]
): { [Name in keyof Means]: Tensor } => inMicrobatches(microbatches, rowsOf => body(...batch.map(rowsOf)))

/**
 * compile() for functions that share a memory budget. The batch, which is every input that is not a scalar, is split into
 * as few microbatches as fit; microbatched() in `body` does it. Prepare the function with the most variables first: they
 * count for the others too. A call or prepare() throws UserError if not even one sequence at a time fits.
 */
export function compileWithin<Outputs extends Tensors>(
  budget: MemoryBudget,
  body: (inputs: Tensors) => Outputs,
): CompiledWithin<Outputs> {
  const compileFor = (count: number): Compiled<Outputs> =>
    compile(inputs => {
      microbatches = count
      try {
        return body(inputs)
      } finally {
        microbatches = 1
      }
    })

  /** Bytes that a function takes; Infinity if that is more than can be addressed. */
  async function bytesOf(compiled: Compiled<Outputs>, inputs: Inputs): Promise<number> {
    try {
      const program = await compiled.prepare(inputs)
      budget.variableBytes = Math.max(budget.variableBytes, program.variableBytes)
      return budget.variableBytes + program.temporaryBytes
    } catch (error) {
      if (error instanceof MemoryError) return Infinity
      throw error
    }
  }

  /** The function for a batch of this shape, and its program. */
  async function choose(inputs: Inputs): Promise<{ compiled: Compiled<Outputs>; program: BudgetedProgram }> {
    const { limit } = budget
    const [sequences, length] = batchShape(inputs)
    let compiled = compileFor(1)
    const microbatches = await fewestMicrobatches({
      sequences,
      length,
      limit,
      bytesInMicrobatches: count => bytesOf((compiled = compileFor(count)), inputs),
      bytesOfOne: length => bytesOf(compileFor(1), oneSequence(inputs, length)),
    })
    const program = await compiled.prepare(inputs)
    return { compiled, program: { ...program, variableBytes: budget.variableBytes, microbatches, limit } }
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
    prepare: async (inputs: Inputs) => (await choiceFor(inputs)).program,
    profile: async (inputs: Inputs = {}) => (await chosenFor(inputs)).profile(inputs),
  })
}

/** Sequences and tokens in each: the shape of every input that is not a scalar. */
function batchShape(inputs: Inputs): readonly number[] {
  const batch = Object.values(inputs).find(value => typeof value !== 'number')
  return batch?.shape ?? [1, 1]
}

/** Inputs for a batch of one sequence. */
function oneSequence(inputs: Inputs, length: number): Inputs {
  const entries = Object.entries(inputs).map(([name, value]) => {
    if (typeof value === 'number') return [name, value]
    const shape = [1, length, ...value.shape.slice(2)]
    const size = shape.reduce((product, extent) => product * extent, 1)
    return [name, new NDArray(value.dtype === 'int32' ? new Int32Array(size) : new Float32Array(size), shape)]
  })
  return Object.fromEntries(entries)
}

/** A batch, the bytes it may take, and how to find the bytes that it takes. */
export type SplitRequest = {
  readonly sequences: number
  /** Tokens in each of them. */
  readonly length: number
  /** Bytes that the function may take, variables included. */
  readonly limit: number
  /** Bytes that the function takes when the batch is split into so many microbatches. */
  readonly bytesInMicrobatches: (count: number) => Promise<number>
  /** Bytes that it takes for a batch of one sequence of so many tokens. */
  readonly bytesOfOne: (length: number) => Promise<number>
}

/**
 * The fewest microbatches, or nearly the fewest, with which a batch fits into memory. Programs are compiled to find out,
 * but none runs. Throws UserError, which says what would fit, if not even one sequence does.
 */
export async function fewestMicrobatches(request: SplitRequest): Promise<number> {
  const { sequences, length, limit, bytesInMicrobatches, bytesOfOne } = request
  // Bytes are a constant plus a part that shrinks with the number of microbatches: two samples give both.
  let before = { count: Infinity, bytes: 0 }
  for (let count = 1; ;) {
    const bytes = await bytesInMicrobatches(count)
    if (bytes <= limit) return count
    const one = count === 1 ? await bytesOfOne(length) : 0
    if (one > limit) throw await sequenceTooLarge(request, one)
    if (count === sequences) throw tooLarge(request, bytes, ['a smaller batch'])
    const divided = (bytes - before.bytes) / (1 / count - 1 / before.count)
    const constant = bytes - divided / count
    const next = bytes < Infinity && constant < limit ? Math.ceil(divided / (limit - constant)) : 2 * count
    if (bytes < Infinity) before = { count, bytes }
    count = Math.min(sequences, Math.max(next, count + 1))
  }
}

async function sequenceTooLarge(request: SplitRequest, bytes: number): Promise<UserError> {
  const { length, limit, bytesOfOne } = request
  const shorter = await longestThatFits(length >> 1, limit, bytesOfOne)
  return tooLarge(request, bytes, shorter ? [`a sequence length of ${shorter}`] : [])
}

function tooLarge({ length, limit }: SplitRequest, bytes: number, remedies: readonly string[]): UserError {
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
