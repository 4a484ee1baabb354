import { type Backend, type Executable, type Storage, currentBackend } from './backend.ts'
import { makeProgram } from '../compiler/make-program.ts'
import { isVariable, reachable } from '../graph/operations.ts'
import { NDArray } from '../graph/ndarray.ts'
import { withPauses } from '../compiler/pauses.ts'
import type { Program } from '../compiler/program.ts'
import type { Tensor } from '../graph/tensor.ts'
import type { Variable } from './variable.ts'

/** A traced function, ready to run. */
export interface Loaded {
  readonly program: Program
  readonly executable: Executable
  /** The variables that it reads or assigns. */
  readonly variables: readonly Variable[]
  /** Milliseconds that making it took. */
  readonly compileTime: number
}

/** Compiles a graph: what it returns, what it assigns, and the tensors that stand for its inputs. */
export async function load(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<Variable, Tensor>,
  inputs: readonly Tensor[],
  backend: Backend = currentBackend(),
  storagesOf: (variables: readonly Variable[], backend: Backend) => Promise<Storage[]> = placeVariables,
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

/** The memory of variables. Those used for the first time get some, and their initial values. */
export function placeVariables(
  variables: readonly Variable[],
  backend = currentBackend(),
): Promise<Storage[]> {
  const fresh = variables.filter(({ home }) => !home)
  if (fresh.length > 0) {
    const storages = new Map(fresh.map(variable => [variable, backend.allocate(variable.size)]))
    const filled = fill(backend, storages)
    // Noted at once, so that whoever else needs them now waits for the same values.
    for (const [variable, storage] of storages)
      variable.home = { backend, storage: filled.then(() => storage) }
  }
  return Promise.all(
    variables.map(({ home }) => {
      if (home?.backend !== backend)
        throw new Error('a variable lives in another backend than the one in use')
      return home.storage
    }),
  )
}

async function fill(backend: Backend, allocated: ReadonlyMap<Variable, Promise<Storage>>): Promise<void> {
  const storages = new Map<Variable, Storage>()
  for (const [variable, storage] of allocated) storages.set(variable, await storage)
  let waiting = new Map<Variable, Tensor>()
  for (const [variable, storage] of storages) {
    if (variable.initial instanceof NDArray) await backend.write(storage, variable.initial.data)
    else waiting.set(variable, variable.initial)
  }
  const storagesOf = async (variables: readonly Variable[]) =>
    Promise.all(
      variables.map(
        async variable => storages.get(variable) ?? (await placeVariables([variable], backend))[0],
      ),
    )
  while (waiting.size > 0) {
    // Those that start from others wait until these have their values.
    const isReady = (initial: Tensor) =>
      !reachable([initial]).some(tensor => isVariable(tensor) && waiting.has(tensor))
    const [ready, later] = [new Map<Variable, Tensor>(), new Map<Variable, Tensor>()]
    for (const [variable, initial] of waiting) (isReady(initial) ? ready : later).set(variable, initial)
    const { executable } = await load([], ready, [], backend, storagesOf)
    await (
      await executable.run([])
    ).results
    waiting = later
  }
}
