/** Checks the imports between the project's files, types included: part of "npm run check". */
import { type Order, importFaults } from './support/import-faults.ts'

/** What comes first knows nothing of what comes later. */
const order: Order = {
  '.': ['common', 'engine', 'data', 'run', ['baselines', 'main.ts'], 'bench', 'test'],
  engine: ['graph', 'ops', 'autodiff', 'compiler', 'runtime', ['cpu', 'gpu'], 'index.ts'],
  'engine/cpu': ['kernels', 'passes', 'runtime'],
  'engine/gpu': ['kernels', 'passes', 'runtime'],
}

/** Files whose imports are yet to be put in order. */
const exceptions = [
  'common/errors.ts',
  'common/whole-file.ts',
  'engine/gpu/kernels/rows/row-kernel.ts',
  'engine/gpu/kernels/rows/row-plan.ts',
  'engine/gpu/kernels/rows/row-split.ts',
  'engine/gpu/kernels/rows/rows.ts',
  'engine/gpu/passes/device-program.ts',
]

const faults = (await importFaults(`${import.meta.dirname}/..`, order)).filter(
  fault => !exceptions.some(file => fault.startsWith(`${file} imports`) && !fault.endsWith('circle.')),
)
for (const fault of faults) console.error(fault)
if (faults.length > 0) process.exitCode = 1
