// Times one work on this project's engine; usage: ours.ts NAME... [--threads N], the names as in work.ts.
// Prints one JSON line. A process of its own, so that its memory and its threads are its own as well.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import {
  type Compiled,
  type Inputs,
  type Tensor,
  type Variable,
  array,
  assign,
  attention,
  attentionCache,
  compile,
  concat,
  cpuBackend,
  full,
  gelu,
  grad,
  layerNorm,
  linearCrossEntropy,
  randomNormal,
  softplus,
  useBackend,
  variable,
} from '../engine/index.ts'
import { sampleToken } from '../data/sample.ts'
import { type Matmul, type Sample, type Step, bytesOf, parseWork } from './work.ts'

const { values, positionals } = parseArgs({
  options: { threads: { type: 'string' } },
  allowPositionals: true,
})
const work = parseWork(positionals)
const backend = await cpuBackend(values.threads ? { threads: Number(values.threads) } : {})
useBackend(backend)

let keys = 0
const normal = (shape: number[], standardDeviation: number) =>
  variable(randomNormal(shape, keys++, standardDeviation))
const constant = (shape: number[], value: number) => variable(full(shape, value))

/** What bench/torch_step.py's Latent is, line for line. */
function latentBlock({ dim, blocks }: Step | Sample) {
  const [keyDim, wide] = [Math.floor(dim / 8), 2 * dim]
  const parameters = {
    norm: constant([dim], 1),
    normBias: constant([dim], 0),
    expand: normal([2 * keyDim + 2 * wide, dim], 0.25 / Math.sqrt(dim)),
    project: normal([dim, wide], 0.5 / Math.sqrt(dim) / blocks),
    positionBias: constant([1], 1),
  }
  const forward = (x: Tensor, attend: typeof attention): Tensor => {
    const normed = layerNorm(x).mul(parameters.norm).add(parameters.normBias)
    const [query, key, linear, gate] = normed.matmul(parameters.expand.T).split([keyDim, keyDim, wide, wide])
    const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
    const mixed = attend(query, key, value, { slope: softplus(parameters.positionBias) })
    return x.add(concat([local, mixed]).matmul(parameters.project.T))
  }
  return { parameters: Object.values(parameters), forward }
}

/** And its Network. */
function latentNetwork(work: Step | Sample) {
  const { dim, vocabulary } = work
  const embedding = normal([vocabulary, dim], 1)
  const blocks = Array.from({ length: work.blocks }, () => latentBlock(work))
  const [norm, normBias] = [constant([dim], 1), constant([dim], 0)]
  const output = normal([vocabulary, dim], 1 / Math.sqrt(3 * dim))
  const parameters = [embedding, ...blocks.flatMap(block => block.parameters), norm, normBias, output]
  /** What the output layer reads. */
  const transform = (tokens: Tensor, attend = attention) => {
    const x = blocks.reduce((x, block) => block.forward(x, attend), embedding.gather(tokens))
    return layerNorm(x).mul(norm).add(normBias)
  }
  return { parameters, transform, output }
}

/** PyTorch's AdamW with its default settings; returns what applies gradients within a traced function. */
function adamW(parameters: readonly Variable[]): (gradients: readonly Tensor[]) => void {
  const [rate, beta1, beta2, epsilon, decay] = [1e-3, 0.9, 0.999, 1e-8, 0.01]
  const zeros = () => parameters.map(({ shape }) => constant([...shape], 0))
  const [firstMoments, secondMoments] = [zeros(), zeros()]
  const [power1, power2] = [constant([], 1), constant([], 1)]
  return gradients => {
    const [next1, next2] = [power1.mul(beta1), power2.mul(beta2)]
    assign(power1, next1)
    assign(power2, next2)
    const [correction1, correction2] = [next1, next2].map(power => power.neg().add(1).reciprocal())
    for (const [i, parameter] of parameters.entries()) {
      const m = firstMoments[i].mul(beta1).add(gradients[i].mul(1 - beta1))
      const v = secondMoments[i].mul(beta2).add(gradients[i].square().mul(1 - beta2))
      assign(firstMoments[i], m)
      assign(secondMoments[i], v)
      const update = m.mul(correction1).div(v.mul(correction2).sqrt().add(epsilon))
      assign(parameter, parameter.mul(1 - rate * decay).sub(update.mul(rate)))
    }
  }
}

/** A compiled function and what to call it with. */
interface Repetition {
  readonly compiled: Compiled<unknown>
  readonly inputs: Inputs
}

function trainingStep(work: Step): Repetition {
  const { vocabulary, length, batch } = work
  const { parameters, transform, output } = latentNetwork(work)
  const update = adamW(parameters)

  const compiled = compile(({ inputs, targets }) => {
    const loss = linearCrossEntropy(transform(inputs), output, targets).loss.mean()
    update(grad(loss, parameters))
    return { loss }
  })
  const randomToken = () => Math.floor(Math.random() * vocabulary)
  const tokens = () => array(Int32Array.from({ length: batch * length }, randomToken), [batch, length])
  return { compiled, inputs: { inputs: tokens(), targets: tokens() } }
}

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
    const seconds = await secondsOf(() => compiled(inputs))
    total += seconds
    times.push(seconds)
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
console.log(JSON.stringify({ ...measured, peak_mib: peakMebibytes() }))
await backend.close()
