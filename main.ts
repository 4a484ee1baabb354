// hlb-gpt: a GPT, trained from scratch in minutes on the machine at hand.
//
// This file is the experiment. It reads from top to bottom: hyperparameters, data, network, optimizers,
// schedules, training, sampling. Change something and run it again: npm start
import { sampleBatch, validationBatches } from './data/batches.ts'
import { loadCorpus } from './data/corpus.ts'
import { promptTokens } from './data/tokens/prompt.ts'
import { sampleToken } from './data/sample.ts'
import {
  type Tensor,
  assign,
  attention,
  attentionCache,
  compile,
  concat,
  countOf,
  full,
  gelu,
  grad,
  initialize,
  linearCrossEntropy,
  norm,
  randomNormal,
  rmsNorm,
  scatterAdd,
  softplus,
  useBackend,
  variable,
} from './engine/index.ts'
import { compileWithin, memoryBudget, microbatched } from './run/budget.ts'
import { readOptions } from './run/options/command.ts'
import { chooseBackend } from './run/device.ts'
import { meanOver } from './run/mean.ts'
import { memoryText } from './run/memory.ts'
import { bounded } from './run/options/options.ts'
import { type Optimizer, parameterGroups } from './run/parameter-groups.ts'
import { inspectStep } from './run/profile.ts'
import { startRun } from './run/run.ts'
import { lastTokens, sampleText } from './run/sampling.ts'

// ---------- Hyperparameters: each is an option too, by its name, such as --net.dim 192 ----------

const options = await readOptions({
  summary: 'Trains a GPT on text, prints how it goes, then writes text of its own.',
  flags: {
    seconds: { type: 'number', default: 180, above: 0, help: 'seconds of training' },
    steps: { type: 'integer', minimum: 1, help: 'steps instead of seconds: such runs repeat exactly' },
    prompt: { type: 'string', default: 'The American people', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 600, minimum: 0, help: 'tokens to sample at the end' },
  },
  hyperparameters: {
    net: {
      dim: 128, // channels between blocks
      blocks: bounded(4, { maximum: 1000 }),
      keyDim: 16, // channels of a query or key; an eighth of dim is enough
      expand: 2, // how many times wider than dim a block is inside
      // rows of the tables for pairs, triples and quadruples of tokens; the last bits of a hash are a row
      ngramRows: bounded([4096, 16384, 32768], { length: 'any', powerOf: 2, maximum: 2 ** 30 }),
    },
    batch: {
      tokens: bounded(2048, { minimum: 'batch.length' }), // in a training step, at any sequence length
      firstLength: 64, // sequences start short, which is cheap,
      length: 256, // and double until they are this long,
      growEvery: 0.125, // each time this share of the run is done; 0: they start long
    },
    optimizer: {
      matrixRate: 0.02, // learning rates: Muon's,
      rate: 0.002, // AdamW's,
      ngramRate: 0.6, // and Adagrad's
      warmup: bounded(0.05, { maximum: 1 }), // they rise in this first share of the run
      decay: bounded(0.6, { maximum: 1 }), // and fall to zero in this last one
      weightDecay: 0.1, // of matrices
      gradNorm: bounded(1, { integer: false, above: 0 }), // a longer gradient is scaled down to this length
    },
    evaluation: { every: bounded(0.05, { above: 0 }), tokens: 65536 }, // every: a share of the run
    temperature: 0.8, // of the sample: 0 takes the likeliest token, 1 follows the probabilities
    topK: 0, // draw from this many of the likeliest tokens; 0: from all
  },
  // A GPU does what hlb-gpt does: 46 million parameters, trained on WikiText-103 until the loss is 3.8.
  onGpu: `--data wikitext-103 --tokenizer gpt2 --target 3.8 --seconds 300 --net.dim 384 --net.blocks 8
    --net.keyDim 48 --net.ngramRows= --batch.tokens 32768 --batch.firstLength 32 --batch.length 1024`,
})
const { net: size, batch, optimizer, evaluation, temperature, topK } = options.hyperparameters
const { dim, keyDim } = size
const wide = dim * size.expand
const backend = await chooseBackend(options)
useBackend(backend)

// ---------- Data: tokens to train on, and others to validate with ----------

const corpus = await loadCorpus({ ...options, sequenceLength: batch.length, report: console.error })
const vocabulary = corpus.tokenizer.vocabularySize
const prompt = promptTokens(corpus.tokenizer, options.prompt)

// ---------- Network: parameters in a plain object, plain functions of tensors ----------

/** Random weights. Dividing by √dim keeps what they compute equally large at any width. */
const weights = (rows: number, columns: number, scale: number) => (key: number) =>
  randomNormal([rows, columns], key, scale / Math.sqrt(dim))
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))

// A parameter's random key follows from the seed and its name, such as 'blocks.0.expand': adding one changes no other.
const net = initialize(options.seed, {
  embedding: weights(vocabulary, dim, 0.25),
  ngrams: size.ngramRows.map(rows => constant([rows, dim], 0)), // tables for pairs, triples, ...
  blocks: Array.from({ length: size.blocks }, () => ({
    norm: constant([dim], 1),
    expand: weights(2 * keyDim + 2 * wide, dim, 0.25),
    project: weights(dim, wide, 0.5 / size.blocks),
    positionBias: constant([1], 1),
  })),
  norm: constant([dim], 1),
  output: weights(vocabulary, dim, 0.5),
})
const { ngrams: tables, ...dense } = net
type Block = (typeof net.blocks)[number]

/** Rows of the n-gram tables, found by hashing each token with the one, two, ... before it. */
function ngramsOf(tokens: Tensor): Tensor[] {
  const [sequences, length] = tokens.shape
  let hash = tokens
  return size.ngramRows.map((rows, i) => {
    const back = Math.min(i + 1, length)
    const before = concat([full([sequences, back], 0, 'int32'), tokens.slice(1, 0, length - back)])
    hash = hash.mul(0x01000193).add(before.add(1).mul(0x2545f491))
    return hash.and(rows - 1)
  })
}

/** Tokens [sequences, length] to vectors [sequences, length, dim]. */
const embed = (tokens: Tensor, ngrams = ngramsOf(tokens)): Tensor =>
  tables.reduce((sum, table, i) => sum.add(table.gather(ngrams[i])), net.embedding.gather(tokens))

/**
 * hlb-gpt's latent attention block. One projection makes queries, keys and the two halves of a GEGLU.
 * Attention mixes the last `dim` channels of the GEGLU between tokens; the others stay where they are.
 */
function block(x: Tensor, { norm, expand, project, positionBias }: Block, attend: typeof attention): Tensor {
  const expanded = rmsNorm(x).mul(norm).matmul(expand.T)
  const [query, key, linear, gate] = expanded.split([keyDim, keyDim, wide, wide])
  const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
  // Instead of position embeddings, a key counts for less the further back it is. How much is learned.
  const mixed = attend(query, key, value, { slope: softplus(positionBias) })
  return x.add(concat([local, mixed]).matmul(project.T))
}

/** Embedded tokens to what the output layer reads, in the same shape. */
const transform = (embedded: Tensor, attend = attention): Tensor =>
  rmsNorm(net.blocks.reduce((x, part) => block(x, part, attend), embedded)).mul(net.norm)

/** Mean loss in nats per token, and how often the right token was the likeliest. */
function lossOf(embedded: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(embedded), net.output, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ---------- Optimizers: Muon for the blocks' matrices, Adagrad for the n-grams, AdamW for the rest ----------

/**
 * Muon (Jordan 2024): steps along the orthogonal matrix nearest to the momentum, so that a matrix learns
 * equally fast in all directions. Newton-Schulz iteration finds it with matrix products alone.
 */
const muon: Optimizer = (parameter, keep) => {
  const momentum = keep('momentum') // zeros of the parameter's shape
  const [rows, columns] = parameter.shape
  return function muon(gradient, rate) {
    const average = momentum.mul(0.95).add(gradient.mul(0.05))
    const ahead = average.mul(0.95).add(gradient.mul(0.05))
    let x = ahead.div(norm([ahead]).add(1e-7))
    for (let i = 0; i < 5; i++) {
      const square = rows > columns ? x.T.matmul(x) : x.matmul(x.T)
      const polynomial = square.matmul(square).mul(2.0315).sub(square.mul(4.775))
      x = (rows > columns ? x.matmul(polynomial) : polynomial.matmul(x)).add(x.mul(3.4445))
    }
    const change = x.mul(Math.sqrt(Math.max(1, rows / columns))).add(parameter.mul(optimizer.weightDecay))
    assign(momentum, average)
    assign(parameter, parameter.sub(change.mul(rate.mul(optimizer.matrixRate))))
  }
}

/** AdamW (Loshchilov & Hutter 2019), at a multiple of the learning rate. step counts from 1. */
const adamW =
  ({ multiple = 1, beta1 = 0.9, beta2 = 0.95 }): Optimizer =>
  (parameter, keep) => {
    const [momentum, variance] = [keep('momentum'), keep('variance')]
    return function adamW(gradient, rate, step) {
      const first = momentum.mul(beta1).add(gradient.mul(1 - beta1))
      const second = variance.mul(beta2).add(gradient.square().mul(1 - beta2))
      // The averages start at zero: early ones are too small by the factor 1 − β^step.
      const bias = (beta: number) => step.mul(Math.log(beta)).exp().neg().add(1)
      const change = first.div(bias(beta1)).div(second.div(bias(beta2)).sqrt().add(1e-9))
      assign(momentum, first)
      assign(variance, second)
      assign(parameter, parameter.sub(change.mul(rate.mul(optimizer.rate)).mul(multiple)))
    }
  }

// Each parameter gets the first optimizer whose pattern matches its name. The multiples are hlb-gpt's.
const optimizers = parameterGroups(dense, [
  [/expand|project/, muon],
  [/output/, adamW({ multiple: 2, beta1: 0.6 })],
  [/positionBias/, adamW({ multiple: 100 })],
  [/./, adamW({ multiple: 32 })],
])
const squares = size.ngramRows.map(rows => constant([rows, 1], 0))

/** Adagrad (Duchi et al. 2011) on the n-grams' rows that a batch used, with one step size for each row. */
function adagrad(ngrams: readonly Tensor[], gradient: Tensor, rate: Tensor) {
  size.ngramRows.forEach((rows, i) => {
    const sum = squares[i].add(scatterAdd(gradient.square().mean(-1, true), ngrams[i], rows))
    const change = gradient.mul(sum.gather(ngrams[i]).add(1e-18).rsqrt()).mul(rate.mul(optimizer.ngramRate))
    assign(squares[i], sum)
    assign(tables[i], tables[i].add(scatterAdd(change.neg(), ngrams[i], rows)))
  })
}

// ---------- Schedules: functions of the share of the run that is done ----------

/** Up in a straight line, level, and down in a straight line. */
const rateAt = (done: number) => Math.min(ramp(done, optimizer.warmup), ramp(1 - done, optimizer.decay))
const ramp = (done: number, share: number) => (done < share ? done / share : 1)

/** Sequences double until they are full length. */
function lengthAt(done: number) {
  const doublings = batch.growEvery > 0 ? Math.floor(done / batch.growEvery) : Infinity
  return Math.min(batch.length, batch.firstLength * 2 ** doublings)
}

// ---------- Training ----------

const memory = memoryBudget(options.memory, backend)
const train = compileWithin(memory, ({ inputs, targets, rate, step }) => {
  const ngrams = ngramsOf(inputs)
  const embedded = embed(inputs, ngrams)
  // Where memory is short the batch goes through in microbatches. The gradient is that of the whole batch.
  const { loss, accuracy } = microbatched(lossOf, embedded, targets)
  const [embeddedGradient, ...gradients] = grad(loss, [embedded, ...optimizers.parameters])
  const gradNorm = norm(gradients)
  const shrink = gradNorm.reciprocal().mul(optimizer.gradNorm).minimum(1)
  const clipped = gradients.map(gradient => gradient.mul(shrink))
  optimizers.update(clipped, rate, step)
  adagrad(ngrams, embeddedGradient, rate)
  return { loss, accuracy, gradNorm }
})

/** Loss and accuracy on the first tokens of the validation text. */
const evaluate = compileWithin(memory, ({ inputs, targets }) =>
  microbatched((inputs, targets) => lossOf(embed(inputs), targets), inputs, targets),
)
const validate = () =>
  meanOver(validationBatches(corpus.validation, 16, batch.length, evaluation.tokens), evaluate)

/** The training batch after so many tokens, in sequences of this length. */
function batchAt(tokensSeen: number, length: number) {
  const sequences = Math.round(batch.tokens / length)
  return sampleBatch(corpus.train, sequences, length, { seed: options.seed, tokensSeen })
}

const longest = () => ({ ...batchAt(0, batch.length), rate: 0, step: 1 })
const state = { network: net, optimizer: { squares, ...optimizers.state } }
await inspectStep(options, backend, { ...net, optimizer: state.optimizer }, { train: [train, longest] })

const run = await startRun(options, {
  corpus,
  backend,
  ...state,
  about: async () => ({
    network: `${countOf(dense)} parameters in ${size.blocks} blocks of ${dim} channels, ${countOf(tables)} in n-gram tables`,
    batch: `${batch.tokens} tokens a step, in sequences of ${lengthAt(0)} to ${batch.length}`,
    memory: memoryText(await train.prepare(longest())),
  }),
})

// at: the steps and tokens so far, and the share of the run that is done. All else follows from it and the variables.
for await (const at of run.steps()) {
  const next = batchAt(at.tokens, lengthAt(at.done))
  await run.train(train, { ...next, rate: rateAt(at.done), step: at.step + 1 })
  if (run.isDue(evaluation.every)) await run.row({ validate })
}

// ---------- Sampling ----------

const cache = attentionCache(batch.length) // remembers as many tokens as a training sequence has
const reach = size.ngramRows.length + 1 // tokens in the longest n-grams

/** Takes in the last of some recent tokens, and returns the logits of the one that follows. */
const predict = compile(({ recent }) => {
  const [token, ...ngrams] = [recent, ...ngramsOf(recent)].map(all => all.slice(1, reach - 1, reach))
  return { logits: transform(embed(token, ngrams), cache.next()).matmul(net.output.T) }
})

await sampleText(run, {
  prompt,
  count: options.sample,
  tokenizer: corpus.tokenizer,
  remember: tokens => predict.update({ recent: lastTokens(tokens, reach) }),
  predict: tokens => predict({ recent: lastTokens(tokens, reach) }),
  draw: (logits, index) => sampleToken(logits, { temperature, topK, seed: options.seed, index }),
})
await backend.close()
