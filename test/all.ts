/** Runs every test of this folder: what "npm test" starts. Arguments go to Node's test runner. */
import { spawnSync } from 'node:child_process'

const runner = spawnSync(
  process.execPath,
  ['--test', ...process.argv.slice(2), `${import.meta.dirname}/**/*.test.ts`],
  { stdio: 'inherit' },
)
process.exitCode = runner.status ?? 1
