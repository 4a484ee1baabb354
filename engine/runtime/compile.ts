import { type Executable, type Step, type StepTime, inTurn } from './backend.ts'
import { flopsOf } from '../compiler/cost.ts'
import { type DType, Trace } from '../graph/operations.ts'
import { checkData } from '../graph/index-checks.ts'
import { load } from './load.ts'
import { NDArray } from '../graph/ndarray.ts'
import type { Program } from '../compiler/program.ts'
import { type Shape, ShapeError, sameShape, showShape, showValue } from '../graph/shape.ts'
import { Tensor } from '../graph/tensor.ts'
import type { Variable } from './variable.ts'

/** Values for a compiled function's inputs, by name; a number is a float32 scalar. */
export type Inputs = Readonly<Record<string, NDArray | number>>

/** A function made by compile(). */
export interface Compiled<Outputs> {
  /**
   * Runs it, compiling first where no call had inputs of the same shapes. Throws RangeError where an input that is used
   * as indices has one out of range, such as a target beyond the vocabulary; nothing has been computed or assigned then.
   */
  (inputs?: Inputs): Promise<{ [Name in keyof Outputs]: NDArray }>
  /** Runs it for what it assigns alone: nothing is computed that only what it returns needs. */
  update(inputs?: Inputs): Promise<void>
  /** Compiles for inputs of these shapes without running, and says what the program takes. */
  prepare(inputs?: Inputs): Promise<CompiledProgram>
  /** Runs it step by step, and says what each step took. */
  profile(inputs?: Inputs): Promise<StepTime[]>
}

/** A program for inputs of certain shapes. */
export interface CompiledProgram {
  readonly program: Program
  /** Bytes of temporaries, beside the variables. */
  readonly temporaryBytes: number
  /** Bytes of the variables that it reads or assigns. */
  readonly variableBytes: number
  /** Floating-point operations of a run: those of its products. */
  readonly flops: number
  /** Kernels that a run starts. */
  readonly dispatches: number
  /** Bytes that these read and write. */
  readonly bytesMoved: number
  /** Milliseconds that tracing and compiling took. */
  readonly compileTime: number
  /** What it takes, in the program's order. */
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly shape: Shape }[]
  /** Of the program's outputs. */
  readonly outputNames: readonly string[]
  /** What a run executes, in order. */
  steps(): Step[]
}

interface Prepared extends CompiledProgram {
  readonly executable: Executable
  /** Checks data of the inputs. */
  readonly check: (data: readonly (Float32Array | Int32Array)[]) => void
}

/**
 * Makes a function of tensors fast: it is called once for each set of input shapes, with tensors
 * that stand for its inputs, and the graph that it builds is compiled to a program that runs at
 * every call. Tensors that it returns by name come back as arrays; assign() within it takes effect
 * at the end of a call.
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
  // Copies, since a call may have to wait for its turn.
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

/** Sets what a variable holds after the call that is being traced. Throws outside of compile(), or at the second assignment. */
export function assign(variable: Variable, value: Tensor): void {
  const trace = Trace.active
  if (!trace)
    throw new Error('assign() works within a function given to compile(); elsewhere use variable.write()')
  if (trace.assignments.has(variable))
    throw new Error('assign: this variable has been assigned in this function already')
  if (!sameShape(variable.shape, value.shape) || variable.dtype !== value.dtype) {
    throw new ShapeError(
      `assign: a variable ${variable.dtype} ${showShape(variable.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`,
    )
  }
  trace.assignments.set(variable, value)
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
  const trace = new Trace()
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
  const checks = trace.indexChecks.map(check => ({ place: order.indexOf(check.input), check }))
  const { program, executable, variables, compileTime } = await load(results, trace.assignments, order)
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

/** The inputs by name; asking for one that the call did not give throws at the line that asks. */
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
