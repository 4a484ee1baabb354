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
  array,
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
  items,
  linearCrossEntropy,
  norm,
  parametersOf,
  randomNormal,
  rmsNorm,
  scatterAdd,
  softplus,
  useBackend,
  variable,
} from './engine/index.ts'
import { compilerWithin } from './run/budget.ts'
import { readOptions } from './run/options/command.ts'
import { chooseBackend } from './run/device.ts'
import { meanOver } from './run/mean.ts'
import { memoryLimit, memoryText } from './run/memory.ts'
import { bounded } from './run/options/options.ts'
import { inspectStep } from './run/profile.ts'
import { startRun } from './run/run.ts'
import { textWriter } from './run/terminal/text-writer.ts'

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
      // rows of the tables for pairs, triples and quadruples of tokens: powers of two, as a hash's last bits are a row
      ngramRows: bounded([4096, 16384, 32768], { length: 'any', powerOf: 2, maximum: 2 ** 30 }),
    },
    batch: {
      tokens: bounded(2048, { minimum: 'batch.length' }), // of a training step, however long the sequences are
      firstLength: 64, // sequences start out short, and cheap,
      length: 256, // and double until they are this long,
      growEvery: 0.125, // each time this share of the run is done; 0: they are long at once
    },
    optimizer: {
      matrixRate: 0.02, // learning rates: Muon's,
      rate: 0.002, // AdamW's,
      ngramRate: 0.6, // and Adagrad's
      warmup: bounded(0.05, { maximum: 1 }), // share of the run in which they rise,
      decay: bounded(0.6, { maximum: 1 }), // and its last share, in which they fall to zero
      weightDecay: 0.1, // of matrices
      gradNorm: bounded(1, { integer: false, above: 0 }), // a longer gradient is shortened to this
    },
    evaluation: { every: bounded(0.05, { above: 0 }), tokens: 65536 }, // every: as a share of the run
    temperature: 0.8, // of the sample: 0 takes the likeliest token, 1 goes by the probabilities
    topK: 0, // sample from so many of the likeliest tokens; 0 is all
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
const tokens = promptTokens(corpus.tokenizer, options.prompt) // the sample goes on from there

// ---------- Network: parameters in a plain object, plain functions of tensors ----------

/** Random weights; over √dim, so that what they make is about as large whatever the width. */
const weights = (rows: number, columns: number, scale: number) => (key: number) =>
  randomNormal([rows, columns], key, scale / Math.sqrt(dim))
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))

// A parameter's key is made of the seed and its name, such as 'blocks.0.expand': adding one changes no other.
const net = initialize(options.seed, {
  embedding: weights(vocabulary, dim, 0.25),
  blocks: Array.from({ length: size.blocks }, () => ({
    norm: constant([dim], 1),
    expand: weights(2 * keyDim + 2 * wide, dim, 0.25),
    project: weights(dim, wide, 0.5 / size.blocks),
    positionBias: constant([1], 1),
  })),
  norm: constant([dim], 1),
  output: weights(vocabulary, dim, 0.5),
})
type Block = (typeof net.blocks)[number]

/** A table a length of n-gram; sums of squared gradients beside it are for its optimizer. */
const ngramTables = size.ngramRows.map(rows => ({
  rows,
  table: constant([rows, dim], 0),
  squares: constant([rows, 1], 0),
}))

/**
 * The row of each n-gram table that stands for the last two, three, ... tokens at each place, found by
 * hashing. What a token means along with those just before it is looked up, not computed.
 */
function ngramsOf(tokens: Tensor): Tensor[] {
  const [sequences, length] = tokens.shape
  let hash = tokens
  return ngramTables.map(({ rows }, i) => {
    const back = Math.min(i + 1, length)
    const before = concat([full([sequences, back], 0, 'int32'), tokens.slice(1, 0, length - back)])
    hash = hash.mul(0x01000193).add(before.add(1).mul(0x2545f491))
    return hash.and(rows - 1)
  })
}

/** Tokens [sequences, length] to vectors [sequences, length, dim]. */
const embed = (tokens: Tensor, ngrams: readonly Tensor[]): Tensor =>
  ngramTables.reduce((sum, { table }, i) => sum.add(table.gather(ngrams[i])), net.embedding.gather(tokens))

/**
 * hlb-gpt's latent attention block. One projection makes queries, keys and the two halves of a GEGLU.
 * Of the GEGLU's channels the last `dim` are what attention moves from token to token; the others stay.
 */
function block(x: Tensor, { norm, expand, project, positionBias }: Block, attend: typeof attention): Tensor {
  const expanded = rmsNorm(x).mul(norm).matmul(expand.T)
  const [query, key, linear, gate] = expanded.split([keyDim, keyDim, wide, wide])
  const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
  // Instead of position embeddings, a key counts for less the further back it is. How much is learned.
  const mixed = attend(query, key, value, { slope: softplus(positionBias) })
  return x.add(concat([local, mixed]).matmul(project.T))
}

/** What the output layer reads, of the same shape as the embedded tokens. */
const transform = (embedded: Tensor, attend = attention): Tensor =>
  rmsNorm(net.blocks.reduce((x, part) => block(x, part, attend), embedded)).mul(net.norm)

/** Mean loss in nats a token, and how often the right token was the likeliest. */
function lossOf(embedded: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(embedded), net.output, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ---------- Optimizers: Muon for the blocks' matrices, Adagrad for the n-grams, AdamW for the rest ----------

const parameters = parametersOf(net).map(([name, parameter]) => ({
  name,
  parameter,
  momentum: constant(parameter.shape, 0),
  variance: constant(parameter.shape, 0),
}))
type Slot = (typeof parameters)[number]

/**
 * Muon (Jordan 2024): steps along the orthogonal matrix nearest to the momentum, so that a matrix learns
 * equally fast in all directions. Newton-Schulz iteration finds it by products alone.
 */
function muon({ parameter, momentum }: Slot, gradient: Tensor, rate: Tensor) {
  const average = momentum.mul(0.95).add(gradient.mul(0.05))
  const ahead = average.mul(0.95).add(gradient.mul(0.05))
  const [rows, columns] = parameter.shape
  let x = ahead.div(norm([ahead]).add(1e-7))
  for (let i = 0; i < 5; i++) {
    const square = rows > columns ? x.T.matmul(x) : x.matmul(x.T)
    const polynomial = square.matmul(square).mul(2.0315).sub(square.mul(4.775))
    x = (rows > columns ? x.matmul(polynomial) : polynomial.matmul(x)).add(x.mul(3.4445))
  }
  const step = x.mul(Math.sqrt(Math.max(1, rows / columns))).add(parameter.mul(optimizer.weightDecay))
  assign(momentum, average)
  assign(parameter, parameter.sub(step.mul(rate)))
}

/** AdamW (Loshchilov & Hutter 2019), with hlb-gpt's multiples of the learning rate. step counts from 1. */
function adamW({ name, parameter, momentum, variance }: Slot, gradient: Tensor, rate: Tensor, step: Tensor) {
  const beta1 = name === 'output' ? 0.6 : 0.9
  const beta2 = 0.95
  const multiple = name === 'output' ? 2 : name.includes('positionBias') ? 100 : 32
  const first = momentum.mul(beta1).add(gradient.mul(1 - beta1))
  const second = variance.mul(beta2).add(gradient.square().mul(1 - beta2))
  // The averages start at zero: early ones are too small by 1 − β to the power of the step.
  const unbiased = (average: Tensor, beta: number) => average.div(step.mul(Math.log(beta)).exp().neg().add(1))
  const update = unbiased(first, beta1).div(unbiased(second, beta2).sqrt().add(1e-9))
  assign(momentum, first)
  assign(variance, second)
  assign(parameter, parameter.sub(update.mul(rate).mul(multiple)))
}

/** Adagrad (Duchi et al. 2011) on the rows that a batch used, with one step size for each row. */
function adagrad(ngrams: readonly Tensor[], gradient: Tensor, rate: Tensor) {
  ngramTables.forEach(({ rows, table, squares }, i) => {
    const sum = squares.add(scatterAdd(gradient.square().mean(-1, true), ngrams[i], rows))
    const update = gradient.mul(sum.gather(ngrams[i]).add(1e-18).rsqrt()).mul(rate)
    assign(squares, sum)
    assign(table, table.add(scatterAdd(update.neg(), ngrams[i], rows)))
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

const compileWithin = compilerWithin(memoryLimit(options.memory, backend))

const train = compileWithin(({ inputs, targets, rate, step }, meansOf) => {
  const ngrams = ngramsOf(inputs)
  const embedded = embed(inputs, ngrams)
  // In one piece, or where memory is short in several, one after the other: the gradients are the same.
  const { loss, accuracy } = meansOf(part => lossOf(part(embedded), part(targets)))
  const variables = parameters.map(({ parameter }) => parameter)
  const [embeddedGradient, ...gradients] = grad(loss, [embedded, ...variables])
  const gradNorm = norm(gradients)
  const shrink = gradNorm.reciprocal().mul(optimizer.gradNorm).minimum(1)
  parameters.forEach((slot, i) => {
    const gradient = gradients[i].mul(shrink)
    if (/expand|project/.test(slot.name)) muon(slot, gradient, rate.mul(optimizer.matrixRate))
    else adamW(slot, gradient, rate.mul(optimizer.rate), step)
  })
  adagrad(ngrams, embeddedGradient, rate.mul(optimizer.ngramRate))
  return { loss, accuracy, gradNorm }
})

const evaluate = compileWithin(({ inputs, targets }, meansOf) =>
  meansOf(part => lossOf(embed(part(inputs), ngramsOf(part(inputs))), part(targets))),
)

/** Loss and accuracy on the first tokens of the validation text. */
const validate = () =>
  meanOver(validationBatches(corpus.validation, 16, batch.length, evaluation.tokens), evaluate)

/** The training batch after so many tokens, in sequences of this length. */
function batchAt(tokensSeen: number, length: number) {
  const sequences = Math.round(batch.tokens / length)
  return sampleBatch(corpus.train, sequences, length, { seed: options.seed, tokensSeen })
}

const longest = () => ({ ...batchAt(0, batch.length), rate: 0, step: 1 })
const tables = ngramTables.map(({ table }) => table)
const state = {
  network: { ...net, ngrams: tables },
  optimizer: {
    squares: ngramTables.map(({ squares }) => squares),
    ...Object.fromEntries(parameters.map(({ name, momentum, variance }) => [name, { momentum, variance }])),
  },
}
await inspectStep(
  options,
  backend,
  { ...state.network, optimizer: state.optimizer },
  { train: [train, longest] },
)

const run = await startRun(options, { corpus, backend, ...state })
const { at } = run // step, tokens, seconds, done (0 to 1): all else of a run follows from these and the variables

if (run.trains) {
  await run.begin({
    network: `${countOf(net)} parameters in ${size.blocks} blocks of ${dim} channels, ${countOf(tables)} in n-gram tables`,
    batch: `${batch.tokens} tokens a step, in sequences of ${lengthAt(0)} to ${batch.length}`,
    memory: memoryText(await train.prepare(longest())),
  })
}

while (run.goesOn()) {
  const inputs = { ...batchAt(at.tokens, lengthAt(at.done)), rate: rateAt(at.done), step: at.step + 1 }
  const { flops } = await train.prepare(inputs)
  const step = train(inputs)
  await run.stepped({ loss: step.then(({ loss }) => loss.item()), tokens: inputs.inputs.size, flops })
  if (await run.passed(evaluation.every))
    await run.row({ ...items(await step), validation: await validate() })
}
await run.trained()

// ---------- Sampling ----------

const cache = attentionCache(batch.length) // remembers as many tokens as a training sequence has
const reach = size.ngramRows.length + 1 // tokens in the longest n-grams

/** Takes in the last of some recent tokens; the logits of what follows it. */
const predict = compile(({ recent }) => {
  const [token, ...ngrams] = [recent, ...ngramsOf(recent)].map(all => all.slice(1, reach - 1, reach))
  return { logits: transform(embed(token, ngrams), cache.next()).matmul(net.output.T) }
})

function upTo(end: number) {
  const recent = Int32Array.from({ length: reach }, (_, place) => tokens[end - reach + place] ?? 0)
  return { recent: array(recent, [1, reach]) }
}
const text = textWriter(corpus.tokenizer.decoder())
for (let i = 1; i < tokens.length && !run.interrupted; i++) await predict.update(upTo(i))
await predict.prepare(upTo(tokens.length))
text.write(tokens)
for (let i = 0; i < options.sample && !run.interrupted; i++) {
  const { logits } = await predict(upTo(tokens.length))
  tokens.push(sampleToken(logits.data, { temperature, topK, seed: options.seed, index: tokens.length }))
  text.write(tokens.slice(-1))
}
await run.sampled(text.end())
await backend.close()
