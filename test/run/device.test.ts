import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chooseBackend } from '../../run/device.ts'
import { UserError } from '../../common/errors.ts'

/** The description of the backend that the options choose, which is closed again. */
async function chosen(options: Parameters<typeof chooseBackend>[0]): Promise<string> {
  const backend = await chooseBackend(options)
  await backend.close()
  assert(backend.peakGflops > 0)
  return backend.description
}

test('--device cpu and --threads take the CPU', async () => {
  assert.match(await chosen({ device: 'cpu' }), /^CPU, \d+ threads/)
  assert.match(await chosen({ threads: 1 }), /^CPU, 1 threads/)
  assert.match(await chosen({ device: 'cpu', precision: 'f32', threads: 1 }), /^CPU, 1 threads/)
})

test('without either it is a GPU, or the CPU and why', async () => {
  assert.match(
    await chosen({}),
    /^(GPU, .*products|CPU \((no GPU was found|the only GPU is .*|WebGPU is .*)\), )/,
  )
})

test('--device gpu takes any GPU, or says in a sentence that there is none', async () => {
  for (const options of [{ device: 'gpu' }, { device: 'gpu', threads: 1 }, { precision: 'f16' }]) {
    const outcome = await chosen(options).catch((error: unknown) => {
      assert(error instanceof UserError, String(error))
      return error.message
    })
    assert.match(outcome, /^(GPU( in software)?, .*products|(No GPU|WebGPU|The GPU) .*: .*\.$)/)
  }
})

test('the CPU has no f16', async () => {
  await assert.rejects(chosen({ device: 'cpu', precision: 'f16' }), UserError)
  await assert.rejects(chosen({ threads: 1, precision: 'f16' }), UserError)
})
