import { after } from 'node:test'
import { cpuBackend, useBackend } from '../engine/index.ts'

/** The backend of the engine's tests, in use from here on and closed at the end of the file that imports it. */
export const backend = await cpuBackend({ threads: 2 })
useBackend(backend)
after(() => backend.close())
