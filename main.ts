// hlb-gpt: a GPT trained from scratch in minutes, on whatever machine there is.
//
// This file is the experiment. It reads from top to bottom: hyperparameters, data, network, optimizer,
// schedules, training, sampling. Change anything and run it again: npm start
import { type Corpus, loadCorpus } from './data/corpus.ts'
import { sampleBatch, validationBatches } from './data/batches.ts'
import {
  type Tensor,
  type Variable,
  arange,
  array,
  assign,
  attention,
  compile,
  concat,
  cpuBackend,
  full,
  gelu,
  grad,
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
import { handleErrors } from './run/errors.ts'
import { headerText } from './run/header.ts'
import { watchInterrupt } from './run/interrupt.ts'
import { logTo } from './run/log.ts'
import { parseOptions } from './run/options.ts'
import { createProgress } from './run/progress.ts'
import { createTable, trainingColumns } from './run/table.ts'
import { wrapText } from './run/wrap.ts'

handleErrors()

// ------------------------------------------------------------------------------------------------
// Hyperparameters: each is an option as well, by its name, such as --net.dim 192
// ------------------------------------------------------------------------------------------------

const options = parseOptions(process.argv.slice(2), {
  summary: 'Trains a GPT on text, prints how it goes, then writes text of its own.',
  flags: {
    data: { type: 'string', value: 'FILE', help: 'text file to train on (State of the Union addresses)' },
    seconds: { type: 'number', default: 180, minimum: 0, help: 'seconds of training' },
    steps: { type: 'integer', minimum: 1, help: 'training steps, instead of seconds: such runs repeat exactly' },
    seed: { type: 'integer', default: 0, minimum: 0, help: 'seed of the initial weights and the order of the data' },
    threads: { type: 'integer', minimum: 1, help: 'threads (as many as there are cores)' },
    prompt: { type: 'string', default: 'The American people', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 600, minimum: 0, help: 'tokens to sample at the end' },
    log: { type: 'string', value: 'FILE', help: 'append each evaluation to this file, as a line of JSON' },
  },
  hyperparameters: {
    net: {
      dim: 128, // channels of the residual stream
      blocks: 4,
      keyDim: 16, // channels of a query or key: an eighth of dim does
      expand: 2, // how many times wider than the stream a block is inside
      ngramRows: [4096, 16384, 32768], // rows of the tables for pairs of bytes, triples, quadruples
    },
    batch: {
      tokens: 2048, // in a training step, however long the sequences
      sequenceLength: 256, // grows up to this from shortest: short ones are cheap while there is little to learn
      shortest: 32,
      growEvery: 0.125, // share of the run after which the length doubles
    },
    optimizer: {
      learningRate: 0.004,
      matrixRate: 0.02, // of Muon
      ngramRate: 0.1, // of the tables
      warmup: 0.05, // share of the run
      decay: 0.6, // share of the run, its last, in which the rate goes to zero
      weightDecay: 0.1,
      gradNorm: 1, // longer gradients are shortened to this
    },
    evaluation: {
      every: 0.05, // share of the run
      tokens: 65536,
    },
    temperature: 0.8,
  },
  rules: {
    'net.dim': { integer: true, minimum: 8 },
    'net.blocks': { integer: true, minimum: 1 },
    'net.keyDim': { integer: true, minimum: 1 },
    'net.expand': { integer: true, minimum: 1 },
    'batch.tokens': { integer: true, minimum: 1 },
    'batch.sequenceLength': { integer: true, minimum: 1 },
    'batch.shortest': { integer: true, minimum: 1 },
    'evaluation.tokens': { integer: true, minimum: 1 },
  },
})
const { net: shape, batch, optimizer, evaluation, temperature } = options.hyperparameters
const { dim, keyDim } = shape
const wide = dim * shape.expand

const backend = await cpuBackend(options.threads ? { threads: options.threads } : {})
useBackend(backend)

// ------------------------------------------------------------------------------------------------
// Data: one long array of tokens to train on, another to validate with
// ------------------------------------------------------------------------------------------------

const corpus: Corpus = await loadCorpus({ file: options.data, sequenceLength: batch.sequenceLength })
const { vocabularySize } = corpus.tokenizer

// ------------------------------------------------------------------------------------------------
// Network: parameters in a plain object, and plain functions of tensors
// ------------------------------------------------------------------------------------------------

let key = options.seed * 1000
/** Random weights; dividing by √inputs keeps activations the same size whatever the width. */
const weights = (rows: number, columns: number, scale: number) =>
  variable(randomNormal([rows, columns], key++, scale / Math.sqrt(dim)))
const ones = (...shape: number[]) => variable(full(shape, 1))

const net = {
  embedding: weights(vocabularySize, dim, 0.25),
  blocks: Array.from({ length: shape.blocks }, () => ({
    norm: ones(dim),
    expand: weights(2 * keyDim + 2 * wide, dim, 0.25),
    project: weights(dim, wide, 0.5 / shape.blocks),
    positionBias: ones(1),
  })),
  norm: ones(dim),
  output: weights(vocabularySize, dim, 0.5),
}
/** Not trained like the rest: a step touches few of their rows. */
const ngramTables = shape.ngramRows.map(rows => ({
  table: variable(full([rows, dim], 0)),
  squares: variable(full([rows, 1], 0)),
}))
type Block = (typeof net.blocks)[number]

/**
 * hlb-gpt's latent attention block. One projection makes queries, keys and the two halves of a GEGLU;
 * of that one's channels the last `dim` are the attention's values, and the others stay where they are.
 */
function block(x: Tensor, { norm, expand, project, positionBias }: Block): Tensor {
  const expanded = rmsNorm(x).mul(norm).matmul(expand.T)
  const [query, key, linear, gate] = expanded.split([keyDim, keyDim, wide, wide])
  const [local, value] = linear.mul(gelu(gate)).split([wide - dim, dim])
  // Instead of position embeddings: the further back a key is, the less it counts, by a slope that is learned.
  const mixed = attention(query, key, value, { slope: softplus(positionBias) })
  return x.add(concat([local, mixed]).matmul(project.T))
}

/**
 * Rows of the n-gram tables for the last two, three, ... tokens at each place, found by hashing: what a
 * token means together with those just before it is looked up, and the blocks are spared that work.
 */
function ngramsOf(tokens: Tensor): Tensor[] {
  const [rows, length] = tokens.shape
  let hash = tokens
  return ngramTables.map(({ table }, i) => {
    const back = Math.min(i + 1, length)
    const before = concat([full([rows, back], 0, 'int32'), tokens.slice(1, 0, length - back)])
    hash = hash.mul(0x01000193).add(before.add(1).mul(0x2545f491))
    return hash.and(full([], table.shape[0] - 1, 'int32'))
  })
}

/** Tokens [rows, length] to vectors [rows, length, dim]. */
function embed(tokens: Tensor, ngrams: readonly Tensor[]): Tensor {
  return ngramTables.reduce((sum, { table }, i) => sum.add(table.gather(ngrams[i])), net.embedding.gather(tokens))
}

/** Embedded tokens to what the output layer reads, both [rows, length, dim]. */
const transform = (embedded: Tensor): Tensor => rmsNorm(net.blocks.reduce(block, embedded)).mul(net.norm)

/** Mean loss in nats a token, and the share of tokens that were the likeliest. */
function lossOf(embedded: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(embedded), net.output, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ------------------------------------------------------------------------------------------------
// Optimizer: Muon for the blocks' matrices, AdamW for everything else
// ------------------------------------------------------------------------------------------------

const zerosLike = ({ shape }: Variable) => variable(full(shape, 0))
const parameters = parametersOf(net).map(([name, parameter]) => ({
  name,
  parameter,
  momentum: zerosLike(parameter),
  variance: zerosLike(parameter),
}))

/** Learning rates as multiples of the base rate, and how long gradients are remembered. */
function groupOf(name: string): { rate: number; beta1: number; beta2: number; weightDecay: number } {
  if (name.includes('positionBias')) return { rate: 100, beta1: 0.9, beta2: 0.95, weightDecay: 0 }
  if (name.includes('norm') || name.includes('embedding')) return { rate: 32, beta1: 0.9, beta2: 0.95, weightDecay: 0 }
  return { rate: 2, beta1: 0.6, beta2: 0.95, weightDecay: 0 }
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019). step counts from 1. */
function adamW({ name, parameter, momentum, variance }: (typeof parameters)[number], gradient: Tensor, rate: Tensor, step: Tensor): void {
  const group = groupOf(name)
  const m = momentum.mul(group.beta1).add(gradient.mul(1 - group.beta1))
  const v = variance.mul(group.beta2).add(gradient.square().mul(1 - group.beta2))
  const unbiased = (moment: Tensor, beta: number) => moment.div(step.mul(Math.log(beta)).exp().neg().add(1))
  const update = unbiased(m, group.beta1).div(unbiased(v, group.beta2).sqrt().add(1e-9))
  const scaled = rate.mul(group.rate)
  assign(momentum, m)
  assign(variance, v)
  assign(parameter, parameter.sub(update.add(parameter.mul(group.weightDecay)).mul(scaled)))
}

/**
 * Muon (Jordan 2024): goes by the orthogonal matrix nearest to the momentum, so that every direction
 * of a matrix learns equally fast. Five Newton-Schulz steps find it by products alone.
 */
function muon({ parameter, momentum }: (typeof parameters)[number], gradient: Tensor, rate: Tensor): void {
  const m = momentum.mul(0.95).add(gradient.mul(0.05))
  const nesterov = m.mul(0.95).add(gradient.mul(0.05))
  const [rows, columns] = parameter.shape
  let x = nesterov.div(norm([nesterov]).add(1e-7))
  for (let i = 0; i < 5; i++) {
    const square = rows > columns ? x.T.matmul(x) : x.matmul(x.T)
    const polynomial = square.matmul(square).mul(2.0315).sub(square.mul(4.775))
    x = (rows > columns ? x.matmul(polynomial) : polynomial.matmul(x)).add(x.mul(3.4445))
  }
  const size = Math.sqrt(Math.max(1, rows / columns))
  assign(momentum, m)
  assign(parameter, parameter.mul(rate.mul(-optimizer.weightDecay).add(1)).sub(x.mul(rate.mul(size))))
}

/** Adagrad (Duchi et al. 2011) for the rows of the tables that a batch used, with one step size a row. */
function adagrad(ngrams: readonly Tensor[], gradient: Tensor, rate: Tensor): void {
  ngramTables.forEach(({ table, squares }, i) => {
    const sum = squares.add(scatterAdd(gradient.square().mean(-1, true), ngrams[i], table.shape[0]))
    assign(squares, sum)
    const update = gradient.mul(sum.gather(ngrams[i]).sqrt().add(1e-9).reciprocal()).mul(rate.neg())
    assign(table, table.add(scatterAdd(update, ngrams[i], table.shape[0])))
  })
}

// ------------------------------------------------------------------------------------------------
// Schedules: functions of the share of the run that is done
// ------------------------------------------------------------------------------------------------

/** Up linearly, then level, then down linearly to zero. */
const rateAt = (done: number) => Math.min(1, done / optimizer.warmup, (1 - done) / optimizer.decay)

/** Doubles until it is sequenceLength. */
const lengthAt = (done: number) =>
  Math.min(batch.sequenceLength, batch.shortest * 2 ** Math.floor(done / batch.growEvery))

// ------------------------------------------------------------------------------------------------
// Training
// ------------------------------------------------------------------------------------------------

const train = compile(({ inputs, targets, rate, step }) => {
  const ngrams = ngramsOf(inputs)
  const embedded = embed(inputs, ngrams)
  const { loss, accuracy } = lossOf(embedded, targets)
  const [embeddedGradient, ...gradients] = grad(loss, [embedded, ...parameters.map(({ parameter }) => parameter)])
  const gradNorm = norm(gradients)
  const shrink = gradNorm.reciprocal().mul(optimizer.gradNorm).minimum(1)
  parameters.forEach((slot, i) => {
    const gradient = gradients[i].mul(shrink)
    if (/expand|project/.test(slot.name)) muon(slot, gradient, rate.mul(optimizer.matrixRate))
    else adamW(slot, gradient, rate.mul(optimizer.learningRate), step)
  })
  adagrad(ngrams, embeddedGradient, rate.mul(optimizer.ngramRate))
  return { loss, accuracy, gradNorm }
})
const evaluate = compile(({ inputs, targets }) => lossOf(embed(inputs, ngramsOf(inputs)), targets))

/** Mean loss and accuracy over the first tokens of the validation text. */
async function validate() {
  const sum = { loss: 0, accuracy: 0, rows: 0 }
  const { sequenceLength } = batch
  for (const { inputs, targets, batchSize } of validationBatches(corpus.validation, 16, sequenceLength, { tokenLimit: evaluation.tokens })) {
    const window = [batchSize, sequenceLength]
    const { loss, accuracy } = await evaluate({ inputs: array(inputs, window), targets: array(targets, window) })
    sum.loss += loss.item() * batchSize
    sum.accuracy += accuracy.item() * batchSize
    sum.rows += batchSize
  }
  return { loss: sum.loss / sum.rows, accuracy: sum.accuracy / sum.rows }
}

const count = parameters.reduce((sum, { parameter }) => sum + parameter.size, 0)
console.log(
  headerText({
    text: `${corpus.name}: ${corpus.train.length.toLocaleString('en')} tokens to train on, ${corpus.validation.length.toLocaleString('en')} to validate with`,
    network: `${count.toLocaleString('en')} parameters, ${shape.blocks} blocks of ${dim} channels`,
    batch: `${batch.tokens} tokens a step, in sequences of ${batch.shortest} to ${batch.sequenceLength}`,
    backend: backend.description,
  }),
)

const progress = createProgress()
const table = createTable(trainingColumns, progress.print, process.stdout.columns)
const interrupt = watchInterrupt()
let [seconds, step, tokensSeen, due] = [0, 0, 0, 0]
let [lastSeconds, lastTokens] = [0, 0]

while (!interrupt.requested) {
  const start = performance.now()
  const done = options.steps ? step / options.steps : seconds / options.seconds
  const length = lengthAt(done)
  const rows = Math.max(1, Math.round(batch.tokens / length))
  const { inputs, targets } = sampleBatch(corpus.train, rows, length, { seed: options.seed, tokensSeen })
  const { loss, accuracy, gradNorm } = await train({
    inputs: array(inputs, [rows, length]),
    targets: array(targets, [rows, length]),
    rate: rateAt(Math.min(1, done)),
    step: ++step,
  })
  tokensSeen += rows * length
  seconds += (performance.now() - start) / 1000
  const now = Math.min(1, options.steps ? step / options.steps : seconds / options.seconds)
  progress.update(now, `step ${step}  loss ${loss.item().toFixed(3)}`)

  // Evaluation is off the clock.
  if (now >= due || now >= 1) {
    const { loss: valLoss, accuracy: valAccuracy } = await validate()
    table.row({
      epoch: tokensSeen / corpus.train.length,
      step,
      trainLoss: loss.item(),
      valLoss,
      valPerplexity: Math.exp(valLoss),
      trainAccuracy: accuracy.item(),
      valAccuracy,
      gradNorm: gradNorm.item(),
      bitsPerByte: valLoss / Math.LN2 / corpus.bytesPerToken,
      tokensPerSecond: (tokensSeen - lastTokens) / (seconds - lastSeconds),
      seconds,
    })
    logTo(options.log, { seconds, step, tokens: tokensSeen, val_loss: valLoss })
    ;[lastSeconds, lastTokens] = [seconds, tokensSeen]
    due += evaluation.every
  }
  if (now >= 1) break
}
progress.clear()
table.close()

// ------------------------------------------------------------------------------------------------
// Sampling
// ------------------------------------------------------------------------------------------------

const predict = compile(({ tokens, last }) => ({
  // The logits that follow the last token; what stands after it is not looked at.
  logits: transform(embed(tokens, ngramsOf(tokens))).reshape(-1, dim).gather(last).matmul(net.output.T),
}))

const context = [...corpus.tokenizer.encode(options.prompt)]
const text = wrapText(piece => process.stdout.write(piece))
const decode = corpus.tokenizer.decoder()
text.write(decode(context))
for (let i = 0; i < options.sample && !interrupt.requested; i++) {
  const recent = context.slice(-batch.sequenceLength)
  const window = new Int32Array(batch.sequenceLength)
  window.set(recent)
  const { logits } = await predict({ tokens: array(window, [1, window.length]), last: array(Int32Array.of(recent.length - 1)) })
  context.push(sampleToken(logits.data))
  text.write(decode(context.slice(-1)))
}
text.end()
await backend.close()

/** A token by its probability, the logits divided by the temperature first. */
function sampleToken(logits: ArrayLike<number>): number {
  const largest = Math.max(...Array.from(logits))
  const odds = Array.from(logits, logit => Math.exp((logit - largest) / temperature))
  let rest = Math.random() * odds.reduce((sum, odd) => sum + odd)
  return Math.max(0, odds.findIndex(odd => (rest -= odd) < 0))
}
