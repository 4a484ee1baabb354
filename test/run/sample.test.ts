/** A sample from a run: it is what the network says, and takes no more than the run's own files. */
import assert from 'node:assert/strict'
import { appendFileSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { gpt2 } from '../../data/tokens/gpt2.ts'
import { promptTokens } from '../../data/tokens/prompt.ts'
import { sampleToken } from '../../data/sample.ts'
import { bytes } from '../../data/tokens/tokenizer.ts'
import {
  type Tensor,
  array,
  attention,
  compile,
  concat,
  full,
  gelu,
  randomNormal,
  rmsNorm,
  softplus,
  variable,
} from '../../engine/index.ts'
import { UserError } from '../../common/errors.ts'
import { writeSafetensors } from '../../run/checkpoint/safetensors.ts'
import { startBackend } from '../support/backend.ts'
import { main, makeFolder } from '../support/command.ts'

const { folder, fresh, again } = makeFolder()
await startBackend()
after(() => rmSync(folder, { recursive: true }))

function run(...args: string[]): string {
  const { status, stdout, stderr } = main(args)
  assert.equal(status, 0, stderr)
  assert.equal(stderr, '')
  return stdout
}

const sample = (name: string, ...args: string[]) => run(...again, '--no-train', '--run', name, ...args)

test('token by token, with what is remembered, it is what the network says of the whole text', async () => {
  const [dim, keyDim, wide, rows, blocks, length] = [24, 4, 48, 16, [0, 1], 40]
  // Weights so large that every one of them counts.
  let key = 0
  const random = (shape: number[], scale: number) => variable(randomNormal(shape, key++, scale))
  const weights = new Map([
    ['embedding.weight', random([256, dim], 1)],
    ...[0, 1, 2].map(i => [`ngrams.${i}.weight`, random([rows, dim], 0.5)] as const),
    ...blocks.flatMap(
      i =>
        [
          [`blocks.${i}.norm.weight`, random([dim], 1)],
          [`blocks.${i}.expand`, random([2 * keyDim + 2 * wide, dim], 0.5)],
          [`blocks.${i}.project`, random([dim, wide], 0.3)],
          [`blocks.${i}.position_bias`, random([1], 0.5)],
        ] as const,
    ),
    ['norm.weight', random([dim], 1)],
    ['output.weight', random([256, dim], 1)],
  ])
  const weight = (name: string): Tensor => weights.get(name) ?? assert.fail(name)

  /** The network of main.ts, over a whole text: the logits of what follows the token at `last`. */
  const predict = compile(({ tokens, last }) => {
    let x = weight('embedding.weight').gather(tokens)
    let hash = tokens
    for (const back of [1, 2, 3]) {
      const before = concat([full([1, back], 0, 'int32'), tokens.slice(1, 0, length - back)])
      hash = hash.mul(0x01000193).add(before.add(1).mul(0x2545f491))
      x = x.add(weight(`ngrams.${back - 1}.weight`).gather(hash.and(rows - 1)))
    }
    for (const i of blocks) {
      const of = (name: string) => weight(`blocks.${i}.${name}`)
      const expanded = rmsNorm(x).mul(of('norm.weight')).matmul(of('expand').T)
      const [query, key, linear, gate] = expanded.split([keyDim, keyDim, wide, wide])
      const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
      const mixed = attention(query, key, value, { slope: softplus(of('position_bias')) })
      x = x.add(concat([local, mixed]).matmul(of('project').T))
    }
    const out = rmsNorm(x).mul(weight('norm.weight')).reshape(length, dim).gather(last)
    return { logits: out.matmul(weight('output.weight').T) }
  })
  const tokens = [...Buffer.from('lazy dog')]
  while (tokens.length < length) {
    const padded = Int32Array.from({ length }, (_, place) => tokens[place] ?? 0)
    const last = array(Int32Array.of(tokens.length - 1))
    const { logits } = await predict({ tokens: array(padded, [1, length]), last })
    tokens.push(logits.data.indexOf(Math.max(...logits.data)))
  }

  const file = join(folder, 'weights.safetensors')
  writeFileSync(file, '')
  await writeSafetensors(async bytes => appendFileSync(file, bytes), [...weights])
  const still = ['matrixRate', 'rate', 'ngramRate'].flatMap(rate => [`--optimizer.${rate}`, '0'])
  const shape = ['--net.blocks', '2', '--batch.length', String(length), '--steps', '1']
  run(...fresh, ...shape, ...still, '--init', file, '--run', 'random')
  const got = sample('random', '--sample', '32', '--temperature', '0', '--prompt', 'lazy dog')
  // As it is printed: control characters are not, and lines are wrapped.
  const shown = (text: string) => text.replace(/[\p{Cc}\s]/gu, '').replaceAll('\ufffd', '')
  const want = shown(Buffer.from(tokens).toString())
  assert.ok(new Set(want).size > 12, `a text of some variety: ${want}`)
  assert.equal(shown(got), want)
})

test('the data may be gone, whatever its tokens were', () => {
  const data = join(folder, 'data')
  mkdirSync(data)
  for (const name of ['train.txt', 'valid.txt'])
    writeFileSync(join(data, name), 'The quick brown fox jumps over the lazy dog. '.repeat(50))
  run(...fresh, '--data', data, '--tokenizer', 'gpt2', '--steps', '2', '--run', 'folder')
  renameSync(data, join(folder, 'elsewhere'))
  const text = sample('folder', '--prompt', 'naïve', '--sample', '8')
  assert.match(text, /^naïve.{8,}\n$/s)
  assert.equal(sample('folder', '--prompt', 'naïve', '--sample', '8', '--top-k', '50257'), text)
})

test('a text may start from nothing, and go on for longer than the network remembers', () => {
  run(...fresh, '--steps', '2', '--run', 'long')
  assert.match(sample('long', '--prompt', '', '--sample', '40', '--temperature', '2'), /^\n[^]{30,}\n$/)
})

test('a prompt is ordinary text, and never nothing', () => {
  for (const tokenizer of [bytes, gpt2]) {
    const through = (prompt: string) => tokenizer.decoder()(promptTokens(tokenizer, prompt))
    for (const prompt of ['naïve', '<|endoftext|>', ' ', '\r\n', '\u{1f600}', '\0'])
      assert.equal(through(prompt), prompt)
    assert.equal(through(''), '\n')
    // Half of a pair of surrogates is no character: UTF-8 has U+FFFD for it.
    assert.equal(through('a\ud83db'), 'a\ufffdb')
  }
  assert.ok(!promptTokens(gpt2, '<|endoftext|>').includes(50256))
  const message = /^--prompt cannot be made into tokens\. .*--tokenizer bytes/
  assert.throws(() => promptTokens(gpt2, 'x'.repeat(30_000)), { name: UserError.name, message })
  assert.equal(promptTokens(bytes, 'x'.repeat(30_000)).length, 30_000)
})

test('seeds that agree in their lower 32 bits draw different tokens', () => {
  const logits = new Float32Array(1000)
  const drawn = [5, 5 + 2 ** 32, 5 + 2 ** 52].map(seed =>
    Array.from({ length: 20 }, (_, index) => sampleToken(logits, { temperature: 1, seed, index })).join(),
  )
  assert.equal(new Set(drawn).size, 3)
})

test('tokens are drawn by their probabilities, from the likeliest ones if so wished', () => {
  const logits = Float32Array.from({ length: 1000 }, (_, i) => ((i * 617) % 1000) / 250)
  const drawn = (temperature: number, topK: number) =>
    Array.from({ length: 5000 }, (_, index) => sampleToken(logits, { temperature, topK, seed: 1, index }))
  const likeliest = [...logits.keys()].toSorted((a, b) => logits[b] - logits[a])
  for (const topK of [1, 2, 3, 50]) {
    const tokens = new Set(drawn(3, topK))
    assert.deepEqual(
      [...tokens].toSorted((a, b) => a - b),
      likeliest.slice(0, topK).toSorted((a, b) => a - b),
    )
  }
  assert.deepEqual(new Set(drawn(0, 0)), new Set(likeliest.slice(0, 1)))
  // Of the likeliest half, by exp(logit): (e^4 − e^2) of (e^4 − e^0) of the draws.
  const half = new Set(likeliest.slice(0, 500))
  const share = drawn(1, 0).filter(token => half.has(token)).length / 5000
  const expected = (Math.exp(4) - Math.exp(2)) / (Math.exp(4) - 1)
  assert.ok(Math.abs(share - expected) < 0.02, `${share}, not ${expected}`)
})
