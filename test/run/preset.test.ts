import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { readOptions } from '../../run/options/command.ts'
import { bounded } from '../../run/options/options.ts'

const { argv } = process
after(() => void (process.argv = argv))

/** Finds an adapter; nothing else is asked of it. */
const gpuThatIs = (real: boolean) =>
  ({ requestAdapter: async () => ({ info: { isFallbackAdapter: !real } }) }) as unknown as GPU

const hyperparameters = { net: { dim: 128, rows: bounded([4096], { length: 'any' }) }, temperature: 0.8 }

/** The options that a command line gives where there is such a GPU. */
async function read(line: string, gpu = gpuThatIs(true)) {
  process.argv = [argv[0], 'main.ts', ...line.split(' ').filter(Boolean)]
  const {
    data,
    tokenizer,
    target,
    seconds,
    hyperparameters: group,
  } = await readOptions({
    summary: 'Trains.',
    flags: { seconds: { type: 'number', default: 180, help: 'how long' } },
    hyperparameters,
    onGpu: `--data wikitext-103 --tokenizer gpt2 --target 3.8
      --seconds 300 --net.dim 384 --net.rows=`,
    gpu,
  })
  return { data, tokenizer, target, seconds, net: group.net }
}

const usual = {
  data: undefined,
  tokenizer: undefined,
  target: undefined,
  seconds: 180,
  net: { dim: 128, rows: [4096] },
}
const onGpu = {
  data: 'wikitext-103',
  tokenizer: 'gpt2',
  target: 3.8,
  seconds: 300,
  net: { dim: 384, rows: [] },
}

test('a run on a real GPU has its own defaults', async () => {
  assert.deepEqual(await read(''), onGpu)
  assert.deepEqual(await read('--device gpu'), onGpu)
  assert.deepEqual(await read('--precision f32'), onGpu)
})

test('the CPU has the usual ones, a GPU in software too', async () => {
  assert.deepEqual(await read('--device cpu'), usual)
  assert.deepEqual(await read('--threads 1'), usual)
  assert.deepEqual(await read('', gpuThatIs(false)), usual)
  assert.deepEqual(await read('--device gpu', gpuThatIs(false)), usual)
  assert.deepEqual(await read('', { ...gpuThatIs(true), requestAdapter: async () => null }), usual)
})

test('what the command line says wins', async () => {
  assert.deepEqual(await read('--net.dim 64 --seconds 10 --target 5'), {
    ...onGpu,
    target: 5,
    seconds: 10,
    net: { dim: 64, rows: [] },
  })
})

test('another text or tokenizer has the usual defaults, the same one has not', async () => {
  assert.deepEqual(await read('--data book.txt'), { ...usual, data: 'book.txt' })
  assert.deepEqual(await read('--tokenizer bytes'), { ...usual, tokenizer: 'bytes' })
  assert.deepEqual(await read('--data wikitext-103 --tokenizer bytes'), {
    ...usual,
    data: 'wikitext-103',
    tokenizer: 'bytes',
  })
  assert.deepEqual(await read('--data wikitext-103'), onGpu)
})
