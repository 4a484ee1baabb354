// Times one matrix product in jax-js; usage: jax.ts matmul M N K. Prints one JSON line. bench.ts runs it.
import { defaultDevice, init, numpy, random } from '@jax-js/jax'
import { parseWork } from './work.ts'

const work = parseWork(process.argv.slice(2))
if (work.kind !== 'matmul') throw new Error('jax.ts times matrix products alone')
await init('wasm')
defaultDevice('wasm')
const a = random.normal(random.key(0), [work.m, work.k])
const b = random.normal(random.key(1), [work.k, work.n])
const times: number[] = []
for (let i = 0; i < 4; i++) {
  const start = performance.now()
  // An operation consumes its operands, unless a reference is counted for it.
  const product = await numpy.matmul(a.ref, b.ref).blockUntilReady()
  times.push(performance.now() - start)
  product.dispose()
}
console.log(JSON.stringify({ seconds: Math.min(...times) / 1000 }))
process.exit(0) // whatever it still has open
