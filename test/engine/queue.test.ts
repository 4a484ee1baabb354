/** Calls that wait for each other or share threads: results do not depend on the number of threads or on the timing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type Inputs,
  array,
  assign,
  compile,
  cpuBackend,
  full,
  gelu,
  grad,
  layerNorm,
  linearCrossEntropy,
  norm,
  randomNormal,
  useBackend,
  variable,
} from '../../engine/index.ts'
import { gpuPrecision, makeBackend, startBackend } from '../support/backend.ts'
import { seeded } from '../support/reference.ts'

const backend = await startBackend()

const floats = (...values: number[]) => array(Float32Array.from(values))

/** A small network with a training step of AdamW. */
function network(width: number, vocabulary: number) {
  const weights = {
    embedding: variable(randomNormal([vocabulary, width], 1, 0.3)),
    expand: variable(randomNormal([2 * width, width], 2, 0.3)),
    project: variable(randomNormal([width, width], 3, 0.3)),
    gain: variable(full([width], 1)),
    output: variable(randomNormal([vocabulary, width], 4, 0.3)),
  }
  const parameters = Object.values(weights)
  const moments = parameters.map(({ shape }) => [variable(full(shape, 0)), variable(full(shape, 0))])
  const step = compile(({ tokens, targets, rate }) => {
    const { embedding, expand, project, gain, output } = weights
    let x = embedding.gather(tokens)
    for (let block = 0; block < 2; block++) {
      const [a, b] = layerNorm(x).mul(gain).matmul(expand.T).split([width, width])
      x = x.add(a.mul(gelu(b)).matmul(project.T))
    }
    const { loss, correct } = linearCrossEntropy(layerNorm(x).mul(gain), output, targets)
    const mean = loss.mean()
    const gradients = grad(mean, parameters)
    const clip = norm(gradients)
    parameters.forEach((parameter, i) => {
      const g = gradients[i].mul(full([], 1).minimum(clip.add(1e-6).reciprocal()))
      const [m, v] = moments[i]
      const [first, second] = [m.mul(0.9).add(g.mul(0.1)), v.mul(0.95).add(g.square().mul(0.05))]
      assign(m, first)
      assign(v, second)
      assign(parameter, parameter.sub(rate.mul(first.div(second.sqrt().add(1e-8)))))
    })
    return { loss: mean, accuracy: correct.mean(), norm: clip }
  })
  return { step, parameters }
}

function batch(seed: number, count: number, length: number, vocabulary: number): Inputs {
  const random = seeded(seed)
  const tokens = Int32Array.from({ length: count * length }, () => random() * vocabulary)
  const targets = tokens.map(token => (token * 3 + 1) % vocabulary)
  return { tokens: array(tokens, [count, length]), targets: array(targets, [count, length]), rate: 0.01 }
}

test('training learns, and repeats to the last bit on any number of threads', async () => {
  const runs: { losses: number[]; weights: (Float32Array | Int32Array)[] }[] = []
  for (const threads of [1, 2, 3]) {
    // Threads are the CPU's; of a GPU each is another device.
    const other = await makeBackend({ threads })
    useBackend(other)
    try {
      const { step, parameters } = network(24, 61)
      const losses: number[] = []
      for (let i = 0; i < 12; i++) {
        // 640 tokens: rows in blocks, which threads take as they come.
        const { loss, norm } = await step(batch(i, 5, 128, 61))
        losses.push(loss.item(), norm.item())
      }
      const weights = await Promise.all(parameters.map(async parameter => (await parameter.read()).data))
      runs.push({ losses, weights })
    } finally {
      useBackend(backend)
      await other.close()
    }
  }
  const { losses } = runs[0]
  assert.ok(losses[22] < losses[0] - 1, `the loss falls: ${losses}`)
  assert.deepEqual(runs[1], runs[0])
  assert.deepEqual(runs[2], runs[0])
})

test(
  'programs of one thread and of all of them take turns',
  { skip: gpuPrecision !== undefined && 'threads are of the CPU' },
  async () => {
    const results: number[][] = []
    // The short sequences' program has less work than this, that of the long ones has more.
    for (const alone of [0, 4e6, Infinity]) {
      const other = await cpuBackend({ threads: 3, alone })
      useBackend(other)
      try {
        const { step } = network(16, 40)
        const losses: number[] = []
        for (let i = 0; i < 40; i++) {
          const { loss, norm } = await step(batch(i, 2, i % 3 === 0 ? 128 : 4, 40))
          losses.push(loss.item(), norm.item())
        }
        results.push(losses)
      } finally {
        useBackend(backend)
        await other.close()
      }
    }
    assert.deepEqual(results[1], results[0])
    assert.deepEqual(results[2], results[0])
  },
)

test('calls that are queued at once run one after the other', async () => {
  const results: number[][] = []
  for (const queued of [false, true]) {
    const { step } = network(16, 40)
    const losses: number[] = []
    const calls: Promise<void>[] = []
    for (let i = 0; i < 8; i++) {
      // Of several shapes, so that programs are compiled while others run, and memory moves.
      const call = step(batch(i, 2, 8 << (i % 4), 40)).then(({ loss }) => void (losses[i] = loss.item()))
      if (queued) calls.push(call)
      else await call
    }
    await Promise.all(calls)
    results.push(losses)
  }
  // The first call of each shape may wait for its program: what is compared is that all went well.
  assert.ok(
    results.flat().every(loss => loss > 0 && loss < 10),
    String(results),
  )
})

test('outputs are right while other programs are being made', async () => {
  const run = compile(({ x }) => ({ y: x.mul(2) }))
  const calls = Array.from({ length: 12 }, async (_, i) => {
    const size = 1000 * (i + 1) ** 2
    const { y } = await run({ x: array(new Float32Array(size).fill(i + 1)) })
    assert.ok(
      y.data.every(value => value === 2 * (i + 1)),
      `call ${i}`,
    )
  })
  await Promise.all(calls)
})

test('outputs are read where they were written, though the arena has moved meanwhile', async () => {
  const fresh = await makeBackend()
  useBackend(fresh)
  try {
    const slow = compile(({ x }) => {
      let y = x
      for (let i = 0; i < 30; i++) y = y.matmul(x)
      return { y }
    })
    const x = array(
      Float32Array.from({ length: 400 ** 2 }, (_, i) => Number(i % 401 === 0)),
      [400, 400],
    )
    await slow({ x })
    for (let i = 1; i < 4; i++) {
      const running = slow({ x })
      // More memory than any program before, taken while the other one runs.
      const large = array(new Float32Array(i * 1000 ** 2), [i * 1000, 1000])
      await compile(({ x }) => ({ y: x.add(i).T })).prepare({ x: large })
      assert.deepEqual((await running).y.data, x.data)
    }
  } finally {
    useBackend(backend)
    await fresh.close()
  }
})

test('calls may be queued without waiting, in the order in which they take effect', async () => {
  const v = variable(floats(1))
  const [double, increase] = [compile(() => assign(v, v.mul(2))), compile(({ x }) => assign(v, v.add(x)))]
  const x = Float32Array.of(1)
  // None has been compiled; the array is used again before its call has had its turn.
  const calls: Promise<unknown>[] = [double(), increase({ x: array(x) })]
  x[0] = 5
  const early = v.read()
  calls.push(double(), increase({ x: array(x) }), v.write(floats(7)), double())
  const late = v.read()
  await Promise.all(calls)
  assert.deepEqual([(await early).data[0], (await late).data[0]], [3, 14])
})
