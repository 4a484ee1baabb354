/** A program that compiles for long, for the tests to interrupt. */
import { cpuBackend, useBackend } from '../../engine/index.ts'
import { deepNetwork } from './deep-network.ts'

process.on('SIGINT', () => process.exit(130))
useBackend(await cpuBackend({ threads: 1 }))
const { train, x } = deepNetwork(4000)
console.log('compiling')
await train.prepare({ x })
console.log('compiled')
