/**
 * Runs every test of this folder: what "npm test" starts. Where the kernels are 256 bits wide, the tests of engine/ and cpu/
 * run again on 128-bit ones. Those of gpu/ are left out where WebGPU finds nothing. Arguments go to Node's test
 * runner.
 */
import { spawnSync } from 'node:child_process'
import { isRevectorizing } from '../engine/cpu/runtime/flags.js'
import { adapterOf, ownDriver } from './support/adapter.ts'

function run(files: string, environment: NodeJS.ProcessEnv = {}): number {
  const args = [...process.execArgv, '--test', ...process.argv.slice(2), `${import.meta.dirname}/${files}`]
  const { status } = spawnSync(process.execPath, args, {
    stdio: 'inherit',
    env: { ...process.env, ...environment },
  })
  return status ?? 1
}

const adapter = await adapterOf(ownDriver)
if (!adapter)
  console.log('The GPU tests are left out: there is no driver here. npm run test:gpu brings one along.')
process.exitCode = run(adapter ? '**/*.test.ts' : '!(gpu)/**/*.test.ts')
if (isRevectorizing()) process.exitCode ||= run('{engine,cpu}/**/*.test.ts', { HLB_SIMD: '128' })
