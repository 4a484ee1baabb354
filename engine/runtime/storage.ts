/** The memory of variables: which backend holds it, and how it gets the initial values. */
import { type Backend, type Storage, currentBackend } from './backend.ts'
import { load } from './load.ts'
import { NDArray } from '../graph/ndarray.ts'
import { isVariable, reachable } from '../graph/node.ts'
import type { Tensor } from '../graph/tensor.ts'

/** Initial values: an array, or a graph that computes them when they are first needed. */
export type Initial = NDArray | Tensor

interface Home {
  readonly backend: Backend
  /** Resolves once the storage holds the initial values. */
  readonly storage: Promise<Storage>
}

const initialValues = new WeakMap<Tensor, Initial>()
const homes = new WeakMap<Tensor, Home>()

/** Sets the initial values of a variable. */
export function setInitial(variable: Tensor, initial: Initial): void {
  initialValues.set(variable, initial)
}

/** Whether a variable has been used, and so has memory in a backend. */
export const isStored = (variable: Tensor): boolean => homes.has(variable)

/** The storages of variables. A variable that is used for the first time is allocated and gets its initial values. */
export function storagesOf(
  variables: readonly Tensor[],
  backend: Backend = currentBackend(),
): Promise<Storage[]> {
  const added = variables.filter(variable => !homes.has(variable))
  if (added.length > 0) {
    const storages = new Map(added.map(variable => [variable, backend.allocate(variable.size)]))
    const filled = fill(backend, storages)
    // Set at once, so that others who need these variables wait for the same values.
    for (const [variable, storage] of storages)
      homes.set(variable, { backend, storage: filled.then(() => storage) })
  }
  return Promise.all(
    variables.map(variable => {
      const home = homes.get(variable)
      if (home?.backend !== backend)
        throw new Error('a variable lives in another backend than the one in use')
      return home.storage
    }),
  )
}

/** Writes or computes the initial values of variables. */
async function fill(backend: Backend, allocated: ReadonlyMap<Tensor, Promise<Storage>>): Promise<void> {
  const storages = new Map<Tensor, Storage>()
  for (const [variable, storage] of allocated) storages.set(variable, await storage)
  let waiting = new Map<Tensor, Tensor>()
  for (const [variable, storage] of storages) {
    const initial = initialValues.get(variable)
    if (!initial) throw new Error('a variable has no initial values')
    if (initial instanceof NDArray) await backend.write(storage, initial.data)
    else waiting.set(variable, initial)
  }
  // Those that are being filled have no homes that are ready yet.
  const place = async (variables: readonly Tensor[]) =>
    Promise.all(
      variables.map(async variable => storages.get(variable) ?? (await storagesOf([variable], backend))[0]),
    )
  while (waiting.size > 0) {
    // A variable whose graph reads others waits until those have their values.
    const isReady = (initial: Tensor) =>
      !reachable([initial]).some(tensor => isVariable(tensor) && waiting.has(tensor))
    const [ready, later] = [new Map<Tensor, Tensor>(), new Map<Tensor, Tensor>()]
    for (const [variable, initial] of waiting) (isReady(initial) ? ready : later).set(variable, initial)
    const { executable } = await load([], ready, [], backend, place)
    await (
      await executable.run([])
    ).results
    waiting = later
  }
}
