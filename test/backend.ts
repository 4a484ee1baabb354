import { after } from 'node:test'
import { cpuBackend, useBackend } from '../engine/index.ts'

/** Starts the backend that the engine's tests run on. A test of another one starts that itself. */
export async function startBackend() {
  const backend = await cpuBackend({ threads: 2 })
  useBackend(backend)
  after(() => backend.close())
  return backend
}
