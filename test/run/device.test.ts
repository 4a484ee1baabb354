import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chooseBackend } from '../../run/device.ts'
import { UserError } from '../../common/errors.ts'
import { kernelTable } from '../../run/profile.ts'

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

test('kernels are listed by what they took, equal ones together', () => {
  const step = (kernels: string[], milliseconds: number, flops: number, bytes: number) => ({
    kernels,
    items: 1,
    milliseconds,
    flops,
    bytes,
  })
  const times = [
    step(['rows'], 0.5, 0, 1e6),
    step(['matmul', 'rows'], 2, 4e9, 3e6),
    step(['rows'], 1.5, 0, 5e6),
  ]
  assert.deepEqual(
    kernelTable([...times, step(['last'], 4, 0, 0)])
      .split('\n')
      .map(line => line.trim().split(/ {2,}/)),
    [
      ['ms', '%', 'times', 'GFLOP/s', 'GB/s', 'kernel'],
      ['4.000', '50.0', '1', '0.0', 'last'],
      ['2.000', '25.0', '2', '3.0', 'rows'],
      ['2.000', '25.0', '1', '2000.0', '1.5', 'matmul + rows'],
      ['8.000', '100.0', '4', '500.0', '1.1', 'in all'],
    ],
  )
})
