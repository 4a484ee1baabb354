import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { gpuBackend } from '../../engine/gpu/runtime/backend.ts'
import { GpuError } from '../../engine/gpu/runtime/device.ts'
import {
  type Tensor,
  array,
  assign,
  compile,
  grad,
  randomNormal,
  useBackend,
  variable,
} from '../../engine/index.ts'
import { testGpu } from '../support/strict-gpu.ts'

const backend = await testGpu()
  .then(gpu => gpuBackend({ gpu }))
  .catch((error: unknown) => {
    if (error instanceof GpuError) return undefined
    throw error
  })
if (backend) useBackend(backend)
after(() => backend?.close())

/** A step of two matrices, for batches of any number of rows. */
function network() {
  const weights = [1, 2].map(seed => variable(randomNormal([64, 64], seed, 0.1)))
  const forward = (x: Tensor) => weights.reduce((x, w) => x.matmul(w).tanh(), x)
  const step = compile(({ x }) => {
    const loss = forward(x).square().mean()
    grad(loss, weights).forEach((gradient, i) => assign(weights[i], weights[i].sub(gradient.mul(0.1))))
    return { loss }
  })
  return { step, parameterBytes: 2 * 64 * 64 * 4 }
}

const batchOf = (rows: number) => ({ x: array(new Float32Array(rows * 64).fill(0.5), [rows, 64]) })

test('as much is allocated as was planned', { skip: backend ? false : 'there is no GPU' }, async () => {
  if (!backend) return
  const { step, parameterBytes } = network()
  const small = await step.prepare(batchOf(32))
  assert.equal(backend.allocated.temporaryBytes, 0, 'a plan takes no memory')
  await step(batchOf(32))
  const half = backend.precision === 'f16' ? parameterBytes / 2 : 0
  assert.deepEqual(backend.allocated, {
    variableBytes: parameterBytes + half,
    temporaryBytes: small.temporaryBytes,
  })
  const large = await step.prepare(batchOf(512))
  await step(batchOf(512))
  assert.ok(large.temporaryBytes > small.temporaryBytes)
  // Each piece of it is as large as the larger program of the two has it: a little may be the smaller one's.
  const { temporaryBytes } = backend.allocated
  assert.ok(temporaryBytes >= large.temporaryBytes)
  assert.ok(temporaryBytes < large.temporaryBytes + small.temporaryBytes / 4, 'programs share memory')
  await step(batchOf(32))
  assert.equal(backend.allocated.temporaryBytes, temporaryBytes)
})
