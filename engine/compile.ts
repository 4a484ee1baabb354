import { type Executable, type StepTime, type Storage, currentBackend } from './backend.ts'
import { Emitter } from './emit.ts'
import { Trace } from './graph.ts'
import { baseOf } from './groups.ts'
import { NDArray } from './ndarray.ts'
import type { Program } from './program.ts'
import { foldResiduals, reachable } from './residuals.ts'
import { Scheduler } from './schedule.ts'
import { ShapeError, sameShape, showShape } from './shape.ts'
import { Tensor } from './tensor.ts'
import { Variable } from './variable.ts'

/** Values for a compiled function's inputs, by name; a number is a float32 scalar. */
export type Inputs = Readonly<Record<string, NDArray | number>>

/** A function made by compile(). */
export interface Compiled<Outputs> {
  /** Runs it, compiling first where no call had inputs of the same shapes. */
  (inputs?: Inputs): Promise<{ [Name in keyof Outputs]: NDArray }>
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
  /** Milliseconds that tracing and compiling took. */
  readonly compileTime: number
}

interface Loaded extends CompiledProgram {
  readonly executable: Executable
  readonly names: readonly string[]
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
  const programs = new Map<string, Promise<Loaded>>()

  const prepare = (inputs: Inputs): Promise<Loaded> => {
    const arrays = Object.entries(inputs).map(([name, value]) => [name, toArray(value)] as const)
    const key = arrays.map(([name, { dtype, shape }]) => `${name}:${dtype}[${shape.join()}]`).join()
    const known = programs.get(key)
    if (known) return known
    const loaded = load(body, arrays)
    programs.set(key, loaded)
    return loaded
  }
  const run = async (inputs: Inputs = {}) => {
    const { executable, names, program } = await prepare(inputs)
    const results = await executable.run(Object.values(inputs).map(value => toArray(value).data))
    const named = names.map((name, i) => [name, new NDArray(results[i], program.outputs[i].shape)] as const)
    // The names are those that the body returned.
    return Object.fromEntries(named) as { [Name in keyof Outputs]: NDArray }
  }
  const profile = async (inputs: Inputs = {}) => (await prepare(inputs)).executable.profile(Object.values(inputs).map(value => toArray(value).data))
  return Object.assign(run, { prepare: (inputs: Inputs = {}) => prepare(inputs), profile })
}

/** Sets what a variable holds after the call that is being traced. Throws outside of compile(), or at the second assignment. */
export function assign(variable: Variable, value: Tensor): void {
  const trace = Trace.active
  if (!trace) throw new Error('assign() works within a function given to compile(); elsewhere use variable.write()')
  if (trace.assignments.has(variable)) throw new Error('assign: this variable has been assigned in this function already')
  if (!sameShape(variable.shape, value.shape) || variable.dtype !== value.dtype) {
    throw new ShapeError(`assign: a variable ${variable.dtype} ${showShape(variable.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`)
  }
  trace.assignments.set(variable, value)
}

const toArray = (value: NDArray | number): NDArray => (typeof value === 'number' ? new NDArray(Float32Array.of(value), []) : value)

async function load(
  body: (inputs: Readonly<Record<string, Tensor>>) => Readonly<Record<string, Tensor>> | void,
  arrays: readonly (readonly [string, NDArray])[],
): Promise<Loaded> {
  const start = performance.now()
  const trace = new Trace()
  const inputs = new Map(arrays.map(([name, { shape, dtype }]) => [name, new Tensor({ kind: 'input', name }, [], shape, dtype)]))
  const outputs = Object.entries(trace.record(() => body(named(inputs))) ?? {})
  const { program, variables } = makeProgram(outputs.map(([, tensor]) => tensor), trace.assignments, [...inputs.values()])
  let compileTime = performance.now() - start
  const storages = await place(variables)
  const loadStart = performance.now()
  const executable = await currentBackend().load(program, storages)
  compileTime += performance.now() - loadStart
  const { temporaryBytes } = executable
  const variableBytes = variables.reduce((bytes, { size }) => bytes + size * 4, 0)
  return { executable, program, names: outputs.map(([name]) => name), temporaryBytes, variableBytes, compileTime }
}

/** The inputs by name; asking for one that the call did not give throws at the line that asks. */
const named = (inputs: ReadonlyMap<string, Tensor>): Readonly<Record<string, Tensor>> =>
  new Proxy<Record<string, Tensor>>(
    {},
    {
      get(_, name) {
        const input = typeof name === 'string' ? inputs.get(name) : undefined
        if (!input) throw new Error(`the function takes an input ${String(name)} that the call did not give: ${[...inputs.keys()].join(', ') || 'none'}`)
        return input
      },
    },
  )

function makeProgram(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<Variable, Tensor>,
  inputs: readonly Tensor[],
): { program: Program; variables: Variable[] } {
  const roots = foldResiduals([...outputs, ...assignments.values()])
  const results = roots.slice(0, outputs.length)
  const assigned = new Map([...assignments.keys()].map((variable, i) => [variable, roots[outputs.length + i]]))
  const emitter = new Emitter([...reachable(roots).filter(root => roots.includes(root))])
  // A variable's value before the call has to be saved if the call assigns another.
  const changes = (tensor: Tensor) => assignments.has(baseOf(tensor) as Variable)
  const views = results.map(tensor => (changes(tensor) ? emitter.copy(tensor) : emitter.contiguous(tensor)))
  const buffers = inputs.map(input => emitter.place(input).buffer)
  const scheduler = new Scheduler(emitter, [...buffers, ...views.map(({ buffer }) => buffer)])
  scheduler.assign(assigned)
  const instructions = scheduler.instructions()
  const variables = [...emitter.variables]
  const program = { instructions, inputs: buffers, outputs: views, variables: variables.map(([, buffer]) => buffer) }
  return { program, variables: variables.map(([variable]) => variable) }
}

/** Memory for variables; those used for the first time get their initial values. */
export async function place(variables: readonly Variable[]): Promise<Storage[]> {
  const backend = currentBackend()
  const fresh = variables.filter(variable => !variable.storage)
  for (const variable of fresh) {
    variable.storage = backend.allocate(variable.size)
    if (variable.initial instanceof NDArray) await backend.write(variable.storage, variable.initial.data)
  }
  const computed = fresh.flatMap(variable => (variable.initial instanceof Tensor ? [[variable, variable.initial] as const] : []))
  if (computed.length > 0) {
    await compile(() => {
      for (const [variable, initial] of computed) assign(variable, initial)
    })()
  }
  return variables.map(({ storage }) => {
    if (!storage) throw new Error('a variable has no memory')
    return storage
  })
}
