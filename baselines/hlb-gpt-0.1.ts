// hlb-gpt's first release: nanoGPT's GPT-2 at 30 million parameters, trained on one accelerator. Every later
// version is measured against it. npm start -- baselines/hlb-gpt-0.1.ts
//
// After https://github.com/tysam-code/hlb-gpt, whose releases of March 2023 (0.0.0 by its tag) have this network;
// the hyperparameters are the first one's. What differs: float32 instead of bfloat16; the optimizer steps after
// all microbatches of a step (the original stepped after the first, and lost the last nine); text is shuffled
// instead of drawn at random places; validation covers the same text each time, with its last batch; the last
// step is always evaluated.
import { sampleBatch, validationBatches } from '../data/batches.ts'
import { loadCorpus } from '../data/corpus.ts'
import { promptTokens } from '../data/tokens/prompt.ts'
import { sampleToken } from '../data/sample.ts'
import {
  type Tensor,
  assign,
  attention,
  compile,
  countOf,
  full,
  gelu,
  grad,
  initialize,
  items,
  layerNorm,
  linearCrossEntropy,
  norm,
  parametersOf,
  randomNormal,
  useBackend,
  variable,
} from '../engine/index.ts'
import { compileWithin, memoryBudget, microbatched } from '../run/budget.ts'
import { readOptions } from '../run/options/command.ts'
import { chooseBackend } from '../run/device.ts'
import { meanOver } from '../run/mean.ts'
import { memoryText } from '../run/memory.ts'
import { bounded } from '../run/options/options.ts'
import { inspectStep } from '../run/profile.ts'
import { startRun } from '../run/run.ts'
import { paddedTokens, sampleText } from '../run/sampling.ts'
import { oneCycle } from './schedules-0.1.ts'

// ---------- Hyperparameters ----------

const options = await readOptions({
  summary: "hlb-gpt's first release: trains its network by its recipe, prints how it goes, then writes text.",
  flags: {
    steps: { type: 'integer', default: 900, minimum: 1, help: 'steps of the optimizer' },
    prompt: { type: 'string', default: 'The American people', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 256, minimum: 0, help: 'tokens to sample at the end' },
  },
  hyperparameters: {
    net: {
      dim: bounded(384, { multipleOf: 'net.heads' }),
      heads: 6,
      blocks: bounded(6, { maximum: 1000 }),
      expand: 4,
    },
    batch: {
      length: 256,
      sequences: 64, // in a microbatch
      accumulate: 10, // microbatches in a step
    },
    optimizer: {
      rate: 2e-3, // the highest learning rate,
      warmup: bounded(0.15, { maximum: 1 }), // reached after this share of the run
      divFactor: bounded(100, { integer: false, above: 0 }), // the first rate is the highest divided by this,
      finalDivFactor: bounded(0.05, { above: 0 }), // the last rate is the first divided by this
      weightDecay: 1e-3, // of the blocks' matrices
    },
    evaluation: { every: 50, batches: 24 },
    temperature: 0.8,
  },
})
const { net: size, batch, optimizer, evaluation, temperature } = options.hyperparameters
const { dim, heads } = size

const backend = await chooseBackend(options)
useBackend(backend)

// ---------- Data ----------

const corpus = await loadCorpus({ ...options, sequenceLength: batch.length, report: console.error })
const vocabulary = 64 * Math.ceil(corpus.tokenizer.vocabularySize / 64) // 50,304 for GPT-2's 50,257
const prompt = promptTokens(corpus.tokenizer, options.prompt)

// ---------- Network: named as in the original's state_dict, net_dict.mlp_layers.0.expand.weight and so on ----------

const weights =
  (rows: number, columns: number, scale = 0.02) =>
  (key: number) =>
    randomNormal([rows, columns], key, scale)
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))
const ofNorm = () => ({ weight: constant([dim], 1) })
/** The more layers add to the residual stream, the less each of them adds at first (GPT-2). */
const ofProject = (columns: number) => ({ weight: weights(dim, columns, 0.02 / Math.sqrt(2 * size.blocks)) })

const net = initialize(options.seed, {
  embedding: { weight: weights(vocabulary, dim) }, // shared with the output layer
  position: { position_embedding: { weight: weights(batch.length, dim) } },
  norm: ofNorm(),
  mlp_layers: Array.from({ length: size.blocks }, () => ({
    norm: ofNorm(),
    expand: { weight: weights(size.expand * dim, dim) },
    project: ofProject(size.expand * dim),
  })),
  attn_layers: Array.from({ length: size.blocks }, () => ({
    norm: ofNorm(),
    attention: { in_proj_weight: weights(3 * dim, dim), out_proj: ofProject(dim) },
  })),
})

function attend(
  x: Tensor,
  { norm, attention: { in_proj_weight, out_proj } }: (typeof net.attn_layers)[number],
) {
  const projected = layerNorm(x).mul(norm.weight).matmul(in_proj_weight.T)
  const [query, key, value] = projected.split([dim, dim, dim])
  return x.add(attention(query, key, value, { heads }).matmul(out_proj.weight.T))
}

function think(x: Tensor, { norm, expand, project }: (typeof net.mlp_layers)[number]) {
  const expanded = layerNorm(x).mul(norm.weight).matmul(expand.weight.T)
  return x.add(gelu(expanded).matmul(project.weight.T))
}

/** Tokens [sequences, length] to the output layer's inputs [sequences, length, dim]. */
function transform(tokens: Tensor): Tensor {
  const positions = net.position.position_embedding.weight.slice(0, 0, tokens.shape[1])
  let x = net.embedding.weight.gather(tokens).add(positions)
  for (let i = 0; i < size.blocks; i++) x = think(attend(x, net.attn_layers[i]), net.mlp_layers[i])
  return layerNorm(x).mul(net.norm.weight)
}

/** Mean loss in nats per token, and how often the right token was the likeliest. */
function lossOf(tokens: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(tokens), net.embedding.weight, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ---------- Optimizer: gradients accumulate over microbatches, then AdamW takes one step ----------

const parameters = parametersOf(net).map(([name, parameter]) => ({
  name,
  parameter,
  gradient: constant(parameter.shape, 0),
  momentum: constant(parameter.shape, 0),
  variance: constant(parameter.shape, 0),
}))
const memory = memoryBudget(options.memory, backend)

/** Adds the gradient of a microbatch, which is split further where memory is short. */
const accumulate = compileWithin(memory, ({ inputs, targets }) => {
  const { loss, accuracy } = microbatched(lossOf, inputs, targets)
  const variables = parameters.map(({ parameter }) => parameter)
  const gradients = grad(loss, variables)
  parameters.forEach(({ gradient }, i) => assign(gradient, gradient.add(gradients[i])))
  return { loss, accuracy }
})

/** AdamW (Loshchilov & Hutter 2019) on the accumulated gradients. step counts from 1. */
const update = compileWithin(memory, ({ rate, step }) => {
  const [beta1, beta2] = [0.9, 0.95]
  const unbiased = (average: Tensor, beta: number) => average.div(step.mul(Math.log(beta)).exp().neg().add(1))
  for (const { name, parameter, gradient, momentum, variance } of parameters) {
    const first = momentum.mul(beta1).add(gradient.mul(1 - beta1))
    const second = variance.mul(beta2).add(gradient.square().mul(1 - beta2))
    const change = unbiased(first, beta1).div(unbiased(second, beta2).sqrt().add(1e-8))
    const decay = /expand|project|in_proj|out_proj/.test(name) ? optimizer.weightDecay : 0
    assign(parameter, parameter.sub(change.add(parameter.mul(decay)).mul(rate)))
    assign(momentum, first)
    assign(variance, second)
    assign(gradient, full(gradient.shape, 0))
  }
  // AdamW gets the sum over the microbatches instead of the mean: a gradient's scale makes no difference to it.
  return { gradNorm: norm(parameters.map(({ gradient }) => gradient)).div(batch.accumulate) }
})

// ---------- Training ----------

const evaluate = compileWithin(memory, ({ inputs, targets }) => microbatched(lossOf, inputs, targets))

/** Loss and accuracy on the first batches of the validation text. */
const validate = () => {
  const tokens = evaluation.batches * batch.sequences * batch.length
  return meanOver(validationBatches(corpus.validation, batch.sequences, batch.length, tokens), evaluate)
}

/** The microbatch after so many tokens. */
const batchAt = (tokensSeen: number) =>
  sampleBatch(corpus.train, batch.sequences, batch.length, { seed: options.seed, tokensSeen })

const first = { rate: 0, step: 1 }
const parts = { accumulate: [accumulate, () => batchAt(0)], update: [update, () => first] } as const
const slots = parameters.map(({ name, gradient, momentum, variance }) => [
  name,
  { gradient, momentum, variance },
])
await inspectStep(options, backend, { ...net, optimizer: Object.fromEntries(slots) }, parts)

const run = await startRun(options, {
  corpus,
  backend,
  network: { net_dict: net },
  optimizer: parameters.map(({ momentum, variance }) => ({ momentum, variance })),
  about: async () => {
    await update.prepare(first)
    return {
      network: `${countOf(net)} parameters in ${size.blocks} blocks of ${dim} channels and ${heads} heads`,
      batch: `${batch.accumulate} microbatches of ${batch.sequences} sequences of ${batch.length} tokens a step`,
      memory: memoryText(await accumulate.prepare(batchAt(0))),
    }
  },
})

const schedule = { ...optimizer, steps: options.steps }
training: for await (const at of run.steps()) {
  let [tokens, flops, result] = [0, 0, { loss: 0, accuracy: 0 }]
  for (let i = 0; i < batch.accumulate; i++) {
    if (run.interrupted) continue training // ends the loop; a resumed run does this step again from its start
    const microbatch = batchAt(at.tokens + tokens)
    result = items(await accumulate(microbatch))
    tokens += microbatch.inputs.size
    flops += (await accumulate.prepare(microbatch)).flops
  }
  const { gradNorm } = items(await update({ rate: oneCycle(at.step, schedule), step: at.step + 1 }))
  await run.stepped({ tokens, flops, results: { ...result, gradNorm } })
  const isEvaluated = at.step % evaluation.every === 0 || at.done === 1
  if (isEvaluated || at.step % 10 === 0) await run.row({ validate: isEvaluated ? validate : undefined })
}

// ---------- Sampling ----------

/** The logits of what follows the token at `last`. Tokens after it are padding. */
const predict = compile(({ tokens, last }) => ({
  logits: transform(tokens).reshape(-1, dim).gather(last).matmul(net.embedding.weight.T),
}))

await sampleText(run, {
  prompt,
  count: options.sample,
  tokenizer: corpus.tokenizer,
  predict: tokens => predict(paddedTokens(tokens, batch.length)),
  draw: (logits, place) => {
    const isToken = logits.subarray(0, corpus.tokenizer.vocabularySize)
    return sampleToken(isToken, { temperature, seed: options.seed, index: place - prompt.length })
  },
})
await backend.close()
