import assert from 'node:assert/strict'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { gpuBackend } from '../../engine/gpu/runtime/backend.ts'
import { GpuError, GpuLostError } from '../../engine/gpu/runtime/device.ts'
import { nodeGpu } from '../../engine/gpu/runtime/node.ts'
import { array, assign, compile, randomNormal, useBackend, variable } from '../../engine/index.ts'
import { checkpointsOf, main, makeFolder, rowsOf } from '../support/command.ts'
import { type OnCall, losable } from '../support/losable-gpu.ts'

const gpu = await nodeGpu().catch((error: unknown) => {
  if (error instanceof GpuError) return undefined
  throw error
})
const skip = (await gpu?.requestAdapter()) ? false : 'there is no GPU'

/** A step on a GPU that may be lost at any call of it. */
async function lostAt(onCall: OnCall) {
  assert.ok(gpu)
  const backend = await gpuBackend({ gpu: losable(gpu, onCall), precision: 'f32' })
  after(() => backend.close())
  useBackend(backend)
  const weights = variable(randomNormal([16, 16], 1))
  const step = compile(({ x }) => {
    const y = x.matmul(weights)
    assign(weights, weights.sub(y))
    return { sum: y.mean() }
  })
  return { step: () => step({ x: array(new Float32Array(256), [16, 16]) }), weights, backend }
}

const isLost = (error: unknown): boolean =>
  error instanceof GpuLostError && /^the GPU was lost \(driver reset\): start again$/.test(error.message)

test('a GPU that is lost between steps fails the next one', { skip }, async () => {
  let isTime = false
  const { step, weights } = await lostAt((method, lose) => {
    if (isTime && method === 'writeBuffer') lose('driver reset\nat somewhere in Dawn')
  })
  await (
    await step()
  ).sum.data
  isTime = true
  await assert.rejects(step(), isLost)
  await assert.rejects(step(), isLost)
  await assert.rejects(weights.read(), isLost)
})

test('so does one that is lost while a result is awaited, and tells late', { skip }, async () => {
  let isTime = false
  const { step, weights, backend } = await lostAt((method, lose) => {
    if (isTime && method === 'submit') lose('driver reset', 100)
  })
  await (
    await step()
  ).sum.data
  isTime = true
  const awaited = [step().then(({ sum }) => sum.data), step(), weights.read()]
  for (const outcome of await Promise.allSettled(awaited))
    assert.ok(outcome.status === 'rejected' && isLost(outcome.reason), JSON.stringify(outcome))
  await backend.close()
  await assert.rejects(step(), isLost)
})

test('and one that is lost while kernels are compiled', { skip }, async () => {
  const outcomes = {
    'pipelines come, and are invalid': () => undefined,
    'pipelines fail': () => Promise.reject(new Error('driver reset')),
  }
  for (const [what, outcome] of Object.entries(outcomes)) {
    const { step } = await lostAt((method, lose) => {
      if (method !== 'createComputePipelineAsync') return undefined
      lose('driver reset', 50)
      return outcome()
    })
    await assert.rejects(step(), isLost, what)
  }
})

/** A run whose GPU is lost when there is a file in its folder. */
function runUntil(name: string, file: string) {
  const { NODE_OPTIONS = '' } = process.env
  const preload = pathToFileURL(resolve(import.meta.dirname, '../support/losing-webgpu.ts'))
  process.env.NODE_OPTIONS = `${NODE_OPTIONS} --import ${preload.href}`
  process.env.HLB_LOSE_AFTER = join(runs, name, file)
  try {
    return main([...fresh, ...onGpu, '--steps', '6', '--run', name])
  } finally {
    process.env.NODE_OPTIONS = NODE_OPTIONS
  }
}

const { runs, fresh, again } = makeFolder()
const onGpu = ['--batch.firstLength', '16', '--precision', 'f32', '--device', 'gpu']

/** What a run printed to stderr, but for what Dawn says. */
const errorsOf = ({ stderr }: { stderr: string }) =>
  stderr.split('\n').filter(line => line !== '' && !line.startsWith('Warning: max'))

test('a run whose GPU is lost says so, and goes on from its last checkpoint', { skip }, () => {
  const lost = runUntil('lost', 'checkpoints/step-3.json')
  assert.deepEqual(errorsOf(lost), [
    `The GPU was lost (driver reset): go on from step 3 with npm start -- --resume lost --runs ${runs}`,
  ])
  assert.equal(lost.status, 1)
  const { names, steps } = checkpointsOf(join(runs, 'lost'))
  assert.deepEqual(steps, [2, 3])
  assert.deepEqual(
    names.filter(name => !/^step-[23]\.(json|safetensors)$/.test(name)),
    [],
  )
  const resumed = main([...again, '--resume', 'lost'])
  assert.deepEqual(errorsOf(resumed), [])
  assert.match(resumed.stdout, /, from step 3 on/)
  assert.equal(rowsOf(resumed.stdout).length, 6)
  assert.equal(checkpointsOf(join(runs, 'lost')).last, 6)
})

test('one without a checkpoint says that it starts anew', { skip }, () => {
  const lost = runUntil('early', 'config.json')
  assert.deepEqual(errorsOf(lost), [
    'The GPU was lost (driver reset): the run has no checkpoint yet, and starts anew with ' +
      `npm start -- --resume early --runs ${runs}`,
  ])
  assert.equal(lost.status, 1)
  assert.match(main([...again, '--resume', 'early', '--steps', '1']).stdout, /\|      1 \|/)
})

test('one that has no name yet says to start again', { skip }, () => {
  const lost = runUntil('nameless', '..')
  assert.deepEqual(errorsOf(lost), ['The GPU was lost (driver reset): start again.'])
  assert.equal(lost.status, 1)
})
