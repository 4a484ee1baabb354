/** Compiles a graph to a program, and loads that into a backend. */
import type { Backend, Executable, Storage } from './backend.ts'
import { canonicalize } from '../compiler/canonicalize.ts'
import { Lowering } from '../compiler/lower.ts'
import { isVariable, reachable } from '../graph/node.ts'
import { baseOf } from '../compiler/fusion-groups.ts'
import { type Pausing, withPauses } from '../compiler/pauses.ts'
import type { Program } from '../compiler/program.ts'
import { foldAddends } from '../compiler/addends.ts'
import { Scheduler } from '../compiler/schedule.ts'
import type { Tensor } from '../graph/tensor.ts'

/** A graph that has been compiled and is ready to run. */
export interface Loaded {
  readonly program: Program
  readonly executable: Executable
  /** The variables that it reads or assigns. */
  readonly variables: readonly Tensor[]
  /** Milliseconds that compiling took. */
  readonly compileTime: number
}

/**
 * Compiles a graph, given what it returns, what it assigns to variables, and the nodes of its inputs, and loads the
 * program into a backend. storagesOf: gives the storages of the variables that the program uses.
 */
export async function load(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<Tensor, Tensor>,
  inputs: readonly Tensor[],
  backend: Backend,
  storagesOf: (variables: readonly Tensor[], backend: Backend) => Promise<Storage[]>,
): Promise<Loaded> {
  const start = performance.now()
  const { program, variables } = await withPauses(makeProgram(outputs, assignments, inputs))
  let compileTime = performance.now() - start
  const storages = await storagesOf(variables, backend)
  const loadStart = performance.now()
  const executable = await backend.load(program, storages)
  compileTime += performance.now() - loadStart
  return { program, executable, variables, compileTime }
}

function* makeProgram(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<Tensor, Tensor>,
  inputs: readonly Tensor[],
): Pausing<{ program: Program; variables: Tensor[] }> {
  const roots = yield* foldAddends(yield* canonicalize([...outputs, ...assignments.values()]))
  const given = new Set(inputs)
  for (const tensor of reachable(roots)) {
    const { operation } = tensor
    if (operation.kind === 'input' && !given.has(tensor)) {
      throw new Error(
        `compile: input '${operation.name}' of another function is used; pass it as an input of this one`,
      )
    }
  }
  const results = roots.slice(0, outputs.length)
  const assigned = new Map(
    [...assignments.keys()].map((variable, i) => [variable, roots[outputs.length + i]]),
  )
  const emitter = yield* Lowering.of(roots)
  // A variable's value before the call has to be saved if the call assigns another.
  const changes = (base: Tensor) => isVariable(base) && assignments.has(base)
  const views = results.map(tensor =>
    changes(baseOf(tensor)) ? emitter.copy(tensor) : emitter.contiguous(tensor),
  )
  const buffers = inputs.map(input => emitter.bufferOf(input).buffer)
  const scheduler = new Scheduler(emitter, [...buffers, ...views.map(({ buffer }) => buffer)])
  yield* scheduler.assign(assigned)
  const instructions = yield* scheduler.instructions()
  const variables = [...emitter.variables]
  const program = {
    instructions,
    inputs: buffers,
    outputs: views,
    variables: variables.map(([, buffer]) => buffer),
  }
  return { program, variables: variables.map(([variable]) => variable) }
}
