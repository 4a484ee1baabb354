/** Checks the imports between the project's files, types included: part of "npm run check". */
import { type Order, importFaults } from './support/import-faults.ts'

/** What comes first knows nothing of what comes later. */
const order: Order = {
  '.': ['common', 'engine', 'data', 'run', ['baselines', 'main.ts'], 'bench', 'test'],
  engine: ['graph', 'ops', 'autodiff', 'compiler', 'runtime', ['cpu', 'gpu'], 'index.ts'],
  'engine/cpu': ['kernels', 'passes', 'runtime'],
  'engine/gpu': ['kernels', 'passes', 'runtime'],
}

const faults = await importFaults(`${import.meta.dirname}/..`, order)
for (const fault of faults) console.error(fault)
if (faults.length > 0) process.exitCode = 1
