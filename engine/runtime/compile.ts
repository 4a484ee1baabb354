/** compile(): traces a function of tensors, and runs the program that its graph becomes. */
import { type Executable, type Step, type StepTime, currentBackend, inTurn } from './backend.ts'
import { flopsOf } from '../compiler/cost.ts'
import { checkData } from '../graph/index-checks.ts'
import { load } from './load.ts'
import { NDArray } from '../graph/ndarray.ts'
import type { DType } from '../graph/operations.ts'
import type { Program } from '../compiler/program.ts'
import { type Shape, ShapeError, showValue } from '../graph/shape.ts'
import { storagesOf } from './storage.ts'
import { Tensor } from '../graph/tensor.ts'
import { Trace } from '../graph/trace.ts'

/** Values for a compiled function's inputs, by name; a number is a float32 scalar. */
export type Inputs = Readonly<Record<string, NDArray | number>>

/** A function made by compile(). */
export interface Compiled<Outputs> {
  /**
   * Runs it; compiles first if no earlier call had inputs of the same shapes. Throws RangeError, before anything is
   * computed, if an input that is used as indices has one out of range, such as a target beyond the vocabulary.
   */
  (inputs?: Inputs): Promise<{ [Name in keyof Outputs]: NDArray }>
  /** Runs it only for its assignments: nothing is computed that only its results need. */
  update(inputs?: Inputs): Promise<void>
  /** Compiles for inputs of these shapes without running, and returns the program's costs. */
  prepare(inputs?: Inputs): Promise<CompiledProgram>
  /** Runs it step by step, and measures each step. */
  profile(inputs?: Inputs): Promise<StepTime[]>
}

/** A program for inputs of certain shapes, and its costs. */
export interface CompiledProgram {
  readonly program: Program
  /** Bytes of temporaries, without the variables. */
  readonly temporaryBytes: number
  /** Bytes of the variables that it reads or assigns. */
  readonly variableBytes: number
  /** Floating-point operations of a run, counting only its matrix products. */
  readonly flops: number
  /** The number of kernels that a run starts. */
  readonly dispatches: number
  /** Bytes that these kernels read and write. */
  readonly bytesMoved: number
  /** Milliseconds that tracing and compiling took. */
  readonly compileTime: number
  /** What it takes, in the program's order. */
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly shape: Shape }[]
  /** The names of the program's outputs, in their order. */
  readonly outputNames: readonly string[]
  /** What a run executes, in order. */
  steps(): Step[]
}

interface Prepared extends CompiledProgram {
  readonly executable: Executable
  /** Checks the inputs' data; throws RangeError. */
  readonly check: (data: readonly (Float32Array | Int32Array)[]) => void
}

/**
 * Compiles a function of tensors. For each set of input shapes the function is called once, with tensors that stand for
 * its inputs; the graph that it builds becomes a program, and every call runs that. The tensors that the function returns
 * by name come back as arrays. assign() within it takes effect at the end of a call.
 */
export function compile<Outputs extends Readonly<Record<string, Tensor>> | void>(
  body: (inputs: Readonly<Record<string, Tensor>>) => Outputs,
): Compiled<Outputs> {
  const programs = new Map<string, Promise<Prepared>>()

  const prepare = (inputs: Inputs): Promise<Prepared> => {
    const arrays = Object.entries(inputs).map(([name, value]) => [name, toArray(name, value)] as const)
    const key = arrays.map(([name, { dtype, shape }]) => `${name}:${dtype}[${shape.join()}]`).join()
    const known = programs.get(key)
    if (known) return known
    const prepared = prepareProgram(body, arrays)
    programs.set(key, prepared)
    return prepared
  }
  // A copy, since the caller may change the data while the call waits for its turn.
  const dataOf = (inputs: Inputs) =>
    Object.entries(inputs).map(([name, value]) => toArray(name, value).data.slice())
  const run = async (inputs: Inputs = {}) => {
    const data = dataOf(inputs)
    const prepared = prepare(inputs)
    const queued = await inTurn(prepared, ({ executable, check }) => {
      check(data)
      return executable.run(data)
    })
    const results = await queued.results
    const { outputNames, program } = await prepared
    const named = outputNames.map(
      (name, i) => [name, new NDArray(results[i], program.outputs[i].shape)] as const,
    )
    // The names are those that the body returned.
    return Object.fromEntries(named) as { [Name in keyof Outputs]: NDArray }
  }
  const profile = async (inputs: Inputs = {}) => {
    const data = dataOf(inputs)
    return inTurn(prepare(inputs), ({ executable, check }) => {
      check(data)
      return executable.profile(data)
    })
  }
  let updating: Compiled<void> | undefined
  const update = async (inputs: Inputs = {}) => {
    updating ??= compile(tensors => void body(tensors))
    await updating(inputs)
  }
  return Object.assign(run, { update, prepare: async (inputs: Inputs = {}) => prepare(inputs), profile })
}

function toArray(name: string, value: NDArray | number): NDArray {
  if (typeof value === 'number') return new NDArray(Float32Array.of(value), [])
  if (value instanceof NDArray) return value
  throw new ShapeError(
    `compile: input '${name}' must be an array or a number, not ${showValue(value)}; make it one with array()`,
  )
}

async function prepareProgram(
  body: (inputs: Readonly<Record<string, Tensor>>) => Readonly<Record<string, Tensor>> | void,
  arrays: readonly (readonly [string, NDArray])[],
): Promise<Prepared> {
  const start = performance.now()
  const backend = currentBackend()
  const trace = new Trace(backend)
  const inputs = new Map(
    arrays.map(([name, { shape, dtype }]) => [name, new Tensor({ kind: 'input', name }, [], shape, dtype)]),
  )
  const outputs = Object.entries(trace.record(() => body(named(inputs))) ?? {})
  for (const [name, { dtype }] of outputs) {
    if (dtype === 'bool')
      throw new ShapeError(`compile: output '${name}' is bool; make it a number with toFloat() or toInt()`)
  }
  const traceTime = performance.now() - start
  const results = outputs.map(([, tensor]) => tensor)
  const order = [...inputs.values()]
  const checks = trace.indexChecks.map(check => ({
    place: order.findIndex(input => input === check.input),
    check,
  }))
  const { program, executable, variables, compileTime } = await load(
    results,
    trace.assignments,
    order,
    backend,
    storagesOf,
  )
  return {
    program,
    executable,
    inputs: [...inputs].map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
    outputNames: outputs.map(([name]) => name),
    steps: () => executable.steps(),
    check: data => {
      for (const { place, check } of checks) checkData(data[place], check)
    },
    temporaryBytes: executable.temporaryBytes,
    variableBytes: variables.reduce((bytes, { size }) => bytes + size * 4, 0),
    flops: flopsOf(program),
    dispatches: executable.dispatches,
    bytesMoved: executable.bytesMoved,
    compileTime: traceTime + compileTime,
  }
}

/** The inputs by name. Reading one that the call did not give throws at the line that reads it. */
const named = (inputs: ReadonlyMap<string, Tensor>): Readonly<Record<string, Tensor>> =>
  new Proxy<Record<string, Tensor>>(
    {},
    {
      get(_, name) {
        const input = typeof name === 'string' ? inputs.get(name) : undefined
        if (!input)
          throw new Error(
            `the function takes an input ${String(name)} that the call did not give: ${[...inputs.keys()].join(', ') || 'none'}`,
          )
        return input
      },
    },
  )
