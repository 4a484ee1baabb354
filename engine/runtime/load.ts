/** Compiles a graph to a program, and loads that into a backend. */
import type { Backend, Executable, Storage } from './backend.ts'
import { makeProgram } from '../compiler/make-program.ts'
import { withPauses } from '../compiler/pauses.ts'
import type { Program } from '../compiler/program.ts'
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
