// hlb-gpt 0.4, the recipe that main.ts started from: latent attention, and a schedule that follows the loss and
// the gradient norm. Everything is scaled from the number of parameters. npm start -- baselines/hlb-gpt-0.4.ts
//
// After https://github.com/tysam-code/hlb-gpt, version 0.4.1. What differs: float32 instead of bfloat16; text
// is shuffled instead of drawn at random places; validation covers the same text each time, with its last
// batch; the last step is always evaluated; microbatches have an upper bound; P stays in the equations' range.
import { sampleBatch, validationBatches } from '../data/batches.ts'
import { loadCorpus } from '../data/corpus.ts'
import { promptTokens } from '../data/tokens/prompt.ts'
import { sampleToken } from '../data/sample.ts'
import { hash } from '../data/shuffle.ts'
import {
  type Tensor,
  array,
  assign,
  attention,
  compile,
  concat,
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
  scatterAdd,
  softplus,
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
import { trainingColumns } from '../run/terminal/columns.ts'
import {
  clampParameters,
  dither,
  lengthAfter,
  microbatchesAfter,
  networkSize,
  rateMultiples,
  safeParameters,
  scalingOf,
  tokensPerBatch,
  weightDecayAfter,
} from './schedules-0.4.ts'

// ---------- Hyperparameters ----------

const options = await readOptions({
  summary: 'hlb-gpt 0.4: trains its network by its recipe, prints how it goes, then writes text of its own.',
  flags: {
    steps: { type: 'integer', default: 1000, minimum: 1, help: 'steps of the optimizer' },
    prompt: { type: 'string', default: 'In 1856, Abraham Lincoln', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 512, minimum: 0, help: 'tokens to sample at the end' },
  },
  hyperparameters: {
    // the size of the network, in multiples of about 46 million parameters
    modelScale: bounded(1, { integer: false, above: 0 }),
    net: {
      dim: 0, // channels between blocks; 0: follows from modelScale
      blocks: bounded(0, { maximum: 1000 }), // 0: follows from modelScale
      keyDimDivisor: 8,
      expand: 2,
    },
    batch: {
      capacity: 114688, // tokens that fit into memory at modelScale 1, for which the rest was tuned
      firstLength: 32,
      length: 1024,
      growEvery: 80, // steps after which sequences double
    },
    optimizer: {
      rate: 2.62, // learning rates: a multiple of the base rate,
      nonDotProductRate: bounded(32, { integer: false }), // and multiples of that one for embedding and norms,
      outputRate: bounded(2, { integer: false }), // output,
      positionBiasRate: bounded(100, { integer: false }), // and position biases
      weightDecay: bounded(2 ** 4, { integer: false }), // of the blocks' matrices, at a loss of 0
      warmup: bounded(100, { minimum: 0 }), // steps
    },
    microbatch: {
      sampleEvery: 5, // steps between looks at the gradient norm
      rate: 0.1,
      most: bounded(64, { integer: false, minimum: 1 }), // microbatches in a step
      // the same for networks that the recipe is not made for, where the number would grow without end
      mostOutside: bounded(8, { integer: false, minimum: 1 }),
    },
    evaluation: { every: 50, tokens: 153600 },
    temperature: bounded(1, { integer: false, minimum: 0 }),
  },
})
const { modelScale, net: size, batch, optimizer, evaluation, temperature } = options.hyperparameters
const inferred = networkSize(modelScale)
const dim = size.dim || inferred.dim
const blocks = size.blocks || inferred.blocks
const keyDim = Math.max(1, Math.floor(dim / size.keyDimDivisor))
const wide = dim * size.expand
const firstLength = Math.min(batch.firstLength, batch.length)
const tokensPerMicrobatch = tokensPerBatch(batch.capacity, modelScale)

const backend = await chooseBackend(options)
useBackend(backend)

// ---------- Data ----------

const corpus = await loadCorpus({ ...options, sequenceLength: batch.length, report: console.error })
const vocabulary = 64 * Math.ceil(corpus.tokenizer.vocabularySize / 64) // 50,304 for GPT-2's 50,257
const prompt = promptTokens(corpus.tokenizer, options.prompt)

// ---------- Network: named as in the original's state_dict, net_dict.attn_layers.0.expand and so on ----------

const weights = (rows: number, columns: number, scale: number) => (key: number) =>
  randomNormal([rows, columns], key, scale / Math.sqrt(dim))
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))

const net = initialize(options.seed, {
  embedding: { weight: weights(vocabulary, dim, 0.25) },
  attn_layers: Array.from({ length: blocks }, () => ({
    norm: { weight: constant([dim], 1) },
    expand: weights(2 * keyDim + 2 * wide, dim, 0.5 / size.expand),
    project: weights(dim, wide, 1 / size.expand / blocks),
    position_bias_mult: constant([], 1),
  })),
  norm: { weight: constant([dim], 1) },
  outputs: { weight: weights(vocabulary, dim, 0.5) },
})

/** Queries and keys are linear. Values are half of a GEGLU; the other half bypasses attention. */
function block(
  x: Tensor,
  { norm, expand, project, position_bias_mult }: (typeof net.attn_layers)[number],
): Tensor {
  const expanded = layerNorm(x).mul(norm.weight).matmul(expand.T)
  const [query, key, linear, gate] = expanded.split([keyDim, keyDim, wide, wide])
  const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
  const mixed = attention(query, key, value, { slope: softplus(position_bias_mult).reshape(1) })
  return x.add(concat([local, mixed]).matmul(project.T))
}

const embed = (tokens: Tensor): Tensor => net.embedding.weight.gather(tokens)
const transform = (embedded: Tensor): Tensor =>
  layerNorm(net.attn_layers.reduce(block, embedded)).mul(net.norm.weight)

/** Mean loss in nats per token, and how often the right token was the likeliest. */
function lossOf(embedded: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(embedded), net.outputs.weight, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ---------- Schedules: see schedules-0.4.ts ----------

const parameters = parametersOf(net).map(([name, parameter]) => ({
  name,
  parameter,
  gradient: constant(parameter.shape, 0),
  momentum: constant(parameter.shape, 0),
  variance: constant(parameter.shape, 0),
}))
const parameterCount = countOf(net)
const scaledCount = clampParameters(parameterCount)
const scaling = scalingOf(scaledCount)
const rate = scaling.baseRate * optimizer.rate
const { sampleEvery, rate: microbatchRate, ...bounds } = options.hyperparameters.microbatch
const isOutside = scaledCount !== parameterCount
const mostMicrobatches = isOutside ? Math.min(bounds.most, bounds.mostOutside) : bounds.most

// ---------- Optimizer: gradients accumulate over microbatches, then AdamW takes one step ----------

const memory = memoryBudget(options.memory, backend)

/**
 * Adds the gradient of a microbatch, which is split further where memory is short.
 * share: its part of the step's batch; rarity: for each input, one over how often its token occurs.
 */
const accumulate = compileWithin(memory, ({ inputs, targets, rarity, share }) => {
  const embedded = embed(inputs)
  const { loss, accuracy } = microbatched(lossOf, embedded, targets)
  const [embedding, ...others] = parameters
  const [embeddedGradient, ...gradients] = grad(loss, [embedded, ...others.map(({ parameter }) => parameter)])
  // PyTorch's scale_grad_by_freq: a token's row learns as much from a batch whether it is common or rare.
  const rows = embeddedGradient.mul(rarity.reshape(...inputs.shape, 1)).mul(share)
  assign(embedding.gradient, embedding.gradient.add(scatterAdd(rows, inputs, vocabulary)))
  others.forEach(({ gradient }, i) => assign(gradient, gradient.add(gradients[i].mul(share))))
  return { loss, accuracy }
})

/** AdamW (Loshchilov & Hutter 2019) on the accumulated gradients. step counts from 1. */
const update = compileWithin(memory, ({ bodyRate, outputRate, biasRate, weightDecay, step }) => {
  for (const { name, parameter, gradient, momentum, variance } of parameters) {
    const isOutput = name.startsWith('outputs')
    const beta1 = isOutput ? 0.6 : 0.9
    const beta2 = 0.95
    const first = momentum.mul(beta1).add(gradient.mul(1 - beta1))
    const second = variance.mul(beta2).add(gradient.square().mul(1 - beta2))
    const unbiased = (average: Tensor, beta: number) =>
      average.div(step.mul(Math.log(beta)).exp().neg().add(1))
    let change = unbiased(first, beta1).div(unbiased(second, beta2).sqrt().add(1e-9))
    if (/expand|project/.test(name)) change = change.add(parameter.mul(weightDecay)).mul(bodyRate)
    else if (isOutput) change = change.mul(outputRate).mul(optimizer.outputRate)
    else if (name.includes('position_bias')) change = change.mul(biasRate).mul(optimizer.positionBiasRate)
    else change = change.mul(bodyRate).mul(optimizer.nonDotProductRate)
    assign(parameter, parameter.sub(change))
    assign(momentum, first)
    assign(variance, second)
    assign(gradient, full(gradient.shape, 0))
  }
  return { gradNorm: norm(parameters.map(({ gradient }) => gradient)) }
})

// ---------- Training ----------

const evaluate = compileWithin(memory, ({ inputs, targets }) =>
  microbatched((inputs, targets) => lossOf(embed(inputs), targets), inputs, targets),
)

/** Loss and accuracy on the first tokens of the validation text, at full length. */
const validate = () =>
  meanOver(validationBatches(corpus.validation, 16, batch.length, evaluation.tokens), evaluate)

/** The microbatch after so many tokens, in sequences of this length. */
function batchAt(tokensSeen: number, length: number) {
  const sequences = Math.max(1, Math.floor(tokensPerMicrobatch / length))
  const tokens = sampleBatch(corpus.train, sequences, length, { seed: options.seed, tokensSeen })
  const counts = new Int32Array(vocabulary)
  for (const token of tokens.inputs.data) counts[token]++
  const rarity = Float32Array.from(tokens.inputs.data, token => 1 / counts[token])
  return { ...tokens, rarity: array(rarity, tokens.inputs.shape) }
}

const longest = () => ({ ...batchAt(0, batch.length), share: 1 })
const first = { bodyRate: 0, outputRate: 0, biasRate: 0, weightDecay: 0, step: 1 }
const parts = { accumulate: [accumulate, longest], update: [update, () => first] } as const
const slots = parameters.map(({ name, gradient, momentum, variance }) => [
  name,
  { gradient, momentum, variance },
])
await inspectStep(options, backend, { ...net, optimizer: Object.fromEntries(slots) }, parts)

const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e7 ? 2 : 0)} million`
const { least, most } = safeParameters
const toFixed2 = (value: number) => value.toFixed(2)
const run = await startRun(options, {
  corpus,
  backend,
  network: { net_dict: net },
  optimizer: parameters.map(({ momentum, variance }) => ({ momentum, variance })),
  // microbatches: of the next step, drawn at random so that their mean is the estimate, a fraction.
  at: { length: firstLength, microbatches: 1, estimate: 0, weightDecay: optimizer.weightDecay },
  columns: {
    ...trainingColumns,
    estimate: { heading: 'microbatches', width: 5, format: toFixed2, spare: 8 },
  },
  about: async () => {
    await update.prepare(first)
    // The longest sequences take the most memory. If they do not fit, this throws before the first step.
    const plan = await accumulate.prepare(longest())
    return {
      network: `${parameterCount} parameters in ${blocks} blocks of ${dim} channels`,
      batch: `microbatches of ${Math.max(tokensPerMicrobatch, batch.length)} tokens, in sequences of ${firstLength} to ${batch.length}`,
      rate: `${rate.toPrecision(3)} for the blocks`,
      ...(isOutside && {
        caution:
          `the recipe is made for ${millions(least)} to ${millions(most)} parameters: ` +
          `these ${millions(parameterCount)} get the rates of ${millions(scaledCount)}, and at most ${mostMicrobatches} microbatches`,
      }),
      memory: memoryText(plan),
    }
  },
})

training: for await (const at of run.steps()) {
  const { length, microbatches, weightDecay } = at
  // After a gradient norm of NaN there are no microbatches, so there is no loss.
  let [tokens, flops, result] = [0, 0, { loss: NaN, accuracy: NaN }]
  for (let i = 0; i < microbatches; i++) {
    if (run.interrupted) continue training // ends the loop; a resumed run does this step again from its start
    const microbatch = { ...batchAt(at.tokens + tokens, length), share: 1 / microbatches }
    result = items(await accumulate(microbatch))
    tokens += microbatch.inputs.size
    flops += (await accumulate.prepare(microbatch)).flops
  }
  const multiples = rateMultiples(at.step, optimizer.warmup)
  const { gradNorm } = items(
    await update({
      bodyRate: rate * multiples.body,
      outputRate: rate * multiples.output,
      biasRate: rate * multiples.positionBias,
      weightDecay,
      step: at.step + 1,
    }),
  )

  // The next step's weight decay follows from this step's loss, and its batch from the gradient norm.
  at.weightDecay = weightDecayAfter(result.loss, scaling, optimizer.weightDecay)
  at.length = lengthAfter(at.step, length, { growEvery: batch.growEvery, longest: batch.length })
  const looks = { sampleEvery, rate: microbatchRate, most: mostMicrobatches }
  at.estimate = microbatchesAfter(at.step, at.estimate, { ...looks, parameters: scaledCount, gradNorm })
  at.microbatches = dither(at.estimate, hash(options.seed, at.step) / 2 ** 32)

  await run.stepped({ tokens, flops, results: { ...result, gradNorm } })
  const isEvaluated = at.step % evaluation.every === 0 || at.done === 1
  const more = { length, microbatches, estimate: at.estimate }
  if (isEvaluated || at.step % 10 === 0) await run.row({ validate: isEvaluated ? validate : undefined, more })
}

// ---------- Sampling ----------

/** The logits of what follows the token at `last`. Tokens after it are padding. */
const predict = compile(({ tokens, last }) => ({
  logits: transform(embed(tokens)).reshape(-1, dim).gather(last).matmul(net.outputs.weight.T),
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
