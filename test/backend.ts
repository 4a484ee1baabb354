import { after } from 'node:test'
import { type CpuBackend, cpuBackend, useBackend } from '../engine/index.ts'

/** Starts the backend of a file of the engine's tests, in use from here on and closed at the end of the file. */
export async function startBackend(): Promise<CpuBackend> {
  const backend = await cpuBackend({ threads: 2 })
  useBackend(backend)
  after(() => backend.close())
  return backend
}
