// Times one work on this project's engine; usage: ours.ts NAME... [--threads N], or
// [--device gpu --precision f32|f16|matrix], the names as in work.ts.
// Prints one JSON line. A process of its own, so that its memory and its threads are its own as well.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { sampleToken } from '../data/sample.ts'
import {
  array,
  assign,
  attentionCache,
  compile,
  cpuBackend,
  gpuBackend,
  useBackend,
} from '../engine/index.ts'
import { type Repetition, constant, latentNetwork, normal, trainingStep } from './latent.ts'
import { type Matmul, type Sample, bytesOf, parseWork } from './work.ts'

const { values, positionals } = parseArgs({
  options: {
    threads: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    precision: { type: 'string', default: 'f32' },
  },
  allowPositionals: true,
})
const work = parseWork(positionals)
const isGpu = values.device === 'gpu'
const backend = isGpu
  ? // 'matrix' is f16 in subgroup matrices, where there are some.
    await gpuBackend({
      precision: values.precision === 'f32' ? 'f32' : 'f16',
      subgroupMatrix: values.precision === 'matrix',
    })
  : await cpuBackend(values.threads ? { threads: Number(values.threads) } : {})
useBackend(backend)

function matrixProduct({ m, n, k }: Matmul): Repetition {
  const [a, b, out] = [normal([m, k], 1), normal([k, n], 1), constant([m, n], 0)]
  // Into a variable, so that no result is copied to JavaScript.
  return { compiled: compile(() => assign(out, a.matmul(b))), inputs: {} }
}

/** The most memory this process has held, in MiB. */
function peakMebibytes(): number {
  try {
    return Math.round(Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024)
  } catch {
    return Math.round(process.resourceUsage().maxRSS / 1024)
  }
}

/** What the process prints of a product or a step: the fastest repetition. */
async function measureRepetitions({ compiled, inputs }: Repetition) {
  const { compileTime } = await compiled.prepare(inputs)
  await compiled(inputs)
  const times: number[] = []
  let total = 0
  while (work.kind === 'step' ? times.length < work.steps : times.length < 3 || total < 0.5) {
    // A GPU is told ahead, as it is in training.
    const atOnce = isGpu ? 4 : 1
    const calls = () => Promise.all(Array.from({ length: atOnce }, () => compiled(inputs)))
    const seconds = await secondsOf(calls)
    total += seconds
    times.push(seconds / atOnce)
  }
  return { seconds: Math.min(...times), compile_s: compileTime / 1000 }
}

/**
 * And of a sample: seconds a token in the fastest twentieth of the text, with the drawing of the tokens, and
 * in the pauses between them the bytes that a copy of as much memory reads and writes in a second.
 */
async function measureSample(work: Sample) {
  const { transform, output } = latentNetwork(work)
  const cache = attentionCache(work.length)
  const predict = compile(({ token }) => ({ logits: transform(token, cache.next()).matmul(output.T) }))
  const rows = Math.ceil(bytesOf(work) / 4 / work.dim)
  const [from, to] = [1, 2].map(value => constant([rows, work.dim], value))
  const copy = compile(() => assign(to, from))
  let token = 0
  let index = 0
  const take = async (count: number) => {
    for (const end = index + count; index < end; index++) {
      const { logits } = await predict({ token: array(Int32Array.of(token), [1, 1]) })
      token = sampleToken(logits.data, { temperature: 0.8, topK: 50, seed: 1, index })
    }
  }
  const { compileTime } = await predict.prepare({ token: array(Int32Array.of(token), [1, 1]) })
  await take(1)
  await copy()
  const some = Math.ceil(work.tokens / 20)
  const [taking, copying]: number[][] = [[], []]
  while (index < work.tokens) {
    taking.push((await secondsOf(() => take(some))) / some)
    for (let i = 0; i < 3; i++) copying.push(await secondsOf(copy))
  }
  return {
    seconds: Math.min(...taking),
    copied_bytes_per_s: (2 * 4 * from.size) / Math.min(...copying),
    compile_s: compileTime / 1000,
  }
}

async function secondsOf(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await action()
  return (performance.now() - start) / 1000
}

const measured =
  work.kind === 'sample'
    ? await measureSample(work)
    : await measureRepetitions(work.kind === 'step' ? trainingStep(work) : matrixProduct(work))
console.log(JSON.stringify({ ...measured, peak_mib: peakMebibytes(), device: backend.description }))
await backend.close()
