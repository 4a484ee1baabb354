// hlb-gpt's first release: nanoGPT's GPT-2 at 30 million parameters, trained on one accelerator. It is what every
// later version is measured against. npm start -- baselines/hlb-gpt-0.1.ts
//
// After https://github.com/tysam-code/hlb-gpt, whose releases of March 2023 (0.0.0 by its tag) have this network;
// the hyperparameters are the first one's. What differs: float32 instead of bfloat16; the optimizer steps after
// all microbatches of a step (the original stepped after the first, and lost the last nine); text is shuffled
// instead of drawn at random places; validation covers the same text each time, with its last batch; the last
// step is always evaluated.
import { sampleBatch, validationBatches } from '../data/batches.ts'
import { loadCorpus } from '../data/corpus.ts'
import { sampleToken } from '../data/sample.ts'
import {
  type Tensor,
  array,
  assign,
  attention,
  compile,
  full,
  gelu,
  grad,
  layerNorm,
  linearCrossEntropy,
  norm,
  parametersOf,
  randomNormal,
  useBackend,
  variable,
} from '../engine/index.ts'
import { chooseBackend, deviceFlags } from '../run/device.ts'
import { UserError, handleErrors } from '../run/errors.ts'
import { headerText } from '../run/header.ts'
import { watchInterrupt } from '../run/interrupt.ts'
import { logTo } from '../run/log.ts'
import { choosePieces, memoryLimit, pieceRanges, showBytes } from '../run/memory.ts'
import { parseOptions } from '../run/options.ts'
import { createProgress } from '../run/progress.ts'
import { createTable, trainingColumns } from '../run/table.ts'
import { loadWeights } from '../run/weights.ts'
import { wrapText } from '../run/wrap.ts'
import { oneCycle } from './schedules-0.1.ts'

handleErrors()

// ---------- Hyperparameters ----------

const options = parseOptions(process.argv.slice(2), {
  summary: "hlb-gpt's first release: trains its network by its recipe, prints how it goes, then writes text.",
  flags: {
    data: { type: 'string', value: 'FILE', help: 'text to train on (State of the Union addresses)' },
    steps: { type: 'integer', default: 900, minimum: 1, help: 'steps of the optimizer' },
    seed: { type: 'integer', default: 0, minimum: 0, help: 'of the first weights and the order of the data' },
    init: { type: 'string', value: 'FILE', help: 'first weights, as .safetensors by their names in PyTorch' },
    memory: { type: 'string', value: 'SIZE', help: 'such as 4GB (three quarters of what is free)' },
    ...deviceFlags,
    prompt: { type: 'string', default: 'The American people', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 256, minimum: 0, help: 'tokens to sample at the end' },
    log: { type: 'string', value: 'FILE', help: 'append every row of the table to FILE, as JSON lines' },
  },
  hyperparameters: {
    net: { dim: 384, heads: 6, blocks: 6, expand: 4 },
    batch: {
      length: 256,
      sequences: 64, // of a microbatch,
      accumulate: 10, // of which a step has so many, as on nanoGPT's accelerators
    },
    optimizer: {
      rate: 2e-3, // the highest learning rate, reached
      warmup: 0.15, // after this share of the run
      divFactor: 100, // The first rate is the highest over this,
      finalDivFactor: 0.05, // the last one the first over this.
      weightDecay: 1e-3, // of the blocks' matrices
    },
    evaluation: { every: 50, batches: 24 },
    temperature: 0.8,
  },
  rules: {
    'net.dim': { integer: true, minimum: 1 },
    'net.heads': { integer: true, minimum: 1 },
    'net.blocks': { integer: true, minimum: 1 },
    'net.expand': { integer: true, minimum: 1 },
    'batch.length': { integer: true, minimum: 1 },
    'batch.sequences': { integer: true, minimum: 1 },
    'batch.accumulate': { integer: true, minimum: 1 },
    'evaluation.every': { integer: true, minimum: 1 },
    'evaluation.batches': { integer: true, minimum: 1 },
    temperature: { minimum: 0 },
  },
})
const { net: size, batch, optimizer, evaluation, temperature } = options.hyperparameters
const { dim, heads } = size
if (dim % heads !== 0) throw new UserError(`--net.dim ${dim} is not a multiple of --net.heads ${heads}.`)

const memory = memoryLimit(options.memory)
const backend = await chooseBackend(options)
useBackend(backend)

// ---------- Data ----------

const corpus = await loadCorpus({ data: options.data, sequenceLength: batch.length, report: console.error })
const vocabulary = 64 * Math.ceil(corpus.tokenizer.vocabularySize / 64) // 50,304 for GPT-2's 50,257

// ---------- Network: named as in the original's state_dict, net_dict.mlp_layers.0.expand.weight and so on ----------

let seed = options.seed * 1000
const weights = (rows: number, columns: number, scale = 0.02) =>
  variable(randomNormal([rows, columns], seed++, scale))
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))
const ofNorm = () => ({ weight: constant([dim], 1) })
/** What is added to the residual is smaller the more of it there is (GPT-2). */
const ofProject = (columns: number) => ({ weight: weights(dim, columns, 0.02 / Math.sqrt(2 * size.blocks)) })

const net = {
  embedding: { weight: weights(vocabulary, dim) }, // of the output too
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
}
if (options.init !== undefined) await loadWeights(options.init, { net_dict: net })

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

/** Tokens [sequences, length] to what the output layer reads, [sequences, length, dim]. */
function transform(tokens: Tensor): Tensor {
  const positions = net.position.position_embedding.weight.slice(0, 0, tokens.shape[1])
  let x = net.embedding.weight.gather(tokens).add(positions)
  for (let i = 0; i < size.blocks; i++) x = think(attend(x, net.attn_layers[i]), net.mlp_layers[i])
  return layerNorm(x).mul(net.norm.weight)
}

/** Mean loss in nats a token, and how often the right token was the likeliest. */
function lossOf(tokens: Tensor, targets: Tensor) {
  const { loss, correct } = linearCrossEntropy(transform(tokens), net.embedding.weight, targets)
  return { loss: loss.mean(), accuracy: correct.mean() }
}

// ---------- Optimizer: gradients add up over microbatches, then AdamW takes one step ----------

const parameters = parametersOf(net).map(([name, parameter]) => ({
  name,
  parameter,
  gradient: constant(parameter.shape, 0),
  momentum: constant(parameter.shape, 0),
  variance: constant(parameter.shape, 0),
}))
const parameterCount = parameters.reduce((sum, { parameter }) => sum + parameter.size, 0)

/** Adds the gradient of a piece of a microbatch. `share`: how much of the microbatch it is. */
const accumulate = compile(({ inputs, targets, share }) => {
  const { loss, accuracy } = lossOf(inputs, targets)
  const gradients = grad(
    loss,
    parameters.map(({ parameter }) => parameter),
  )
  parameters.forEach(({ gradient }, i) => assign(gradient, gradient.add(gradients[i].mul(share))))
  return { loss, accuracy }
})

/** AdamW (Loshchilov & Hutter 2019) on the gradients that have added up. step counts from 1. */
const update = compile(({ rate, step }) => {
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
  // The sum over the microbatches is what AdamW gets: it takes no notice of a gradient's scale.
  return { gradNorm: norm(parameters.map(({ gradient }) => gradient)).div(batch.accumulate) }
})

// ---------- Memory: a microbatch goes through the network in as many pieces as it takes ----------

const updatePlan = await update.prepare({ rate: 0, step: 0 })
const { variableBytes } = updatePlan
async function temporaryBytes(sequences: number, length: number) {
  const tokens = array(new Int32Array(sequences * length), [sequences, length])
  const plan = await accumulate.prepare({ inputs: tokens, targets: tokens, share: 0 })
  return Math.max(plan.temporaryBytes, updatePlan.temporaryBytes)
}
const pieces = await choosePieces({ ...batch, limit: memory, variableBytes, temporaryBytes })
const largestPiece = Math.ceil(batch.sequences / pieces)

// ---------- Training ----------

/** Sends a microbatch through the network and back, and adds its gradient to that of the step. */
async function learn(tokensSeen: number) {
  const { sequences, length } = batch
  const { inputs, targets } = sampleBatch(corpus.train, sequences, length, { seed: options.seed, tokensSeen })
  let [loss, accuracy, flops] = [0, 0, 0]
  for (const { start, end } of pieceRanges(sequences, pieces)) {
    const part = (data: Int32Array) =>
      array(data.subarray(start * length, end * length), [end - start, length])
    const piece = { inputs: part(inputs), targets: part(targets), share: (end - start) / sequences }
    const means = await accumulate(piece)
    loss += means.loss.item() * piece.share
    accuracy += means.accuracy.item() * piece.share
    flops += (await accumulate.prepare(piece)).flops
  }
  return { loss, accuracy, flops }
}

const evaluate = compile(({ inputs, targets }) => lossOf(inputs, targets))

/** Loss and accuracy on the first batches of the validation text. */
async function validate() {
  let [loss, accuracy, sequences] = [0, 0, 0]
  const { length } = batch
  const limit = { tokenLimit: evaluation.batches * batch.sequences * length }
  for (const { inputs, targets, batchSize } of validationBatches(
    corpus.validation,
    largestPiece,
    length,
    limit,
  )) {
    const shape = [batchSize, length]
    const means = await evaluate({ inputs: array(inputs, shape), targets: array(targets, shape) })
    loss += means.loss.item() * batchSize
    accuracy += means.accuracy.item() * batchSize
    sequences += batchSize
  }
  return { loss: loss / sequences, accuracy: accuracy / sequences }
}

console.log(
  headerText({
    text: `${corpus.name}, ${corpus.train.length} tokens to train on and ${corpus.validation.length} to validate with`,
    network: `${parameterCount} parameters in ${size.blocks} blocks of ${dim} channels and ${heads} heads`,
    batch: `${batch.accumulate} microbatches of ${batch.sequences} sequences of ${batch.length} tokens a step`,
    memory:
      `${showBytes(variableBytes)} for variables, ${showBytes(await temporaryBytes(largestPiece, batch.length))} ` +
      `for ${largestPiece} sequences at a time; ${showBytes(memory)} allowed`,
    backend: backend.description,
  }),
)

const progress = createProgress()
const table = createTable(trainingColumns, progress.print, process.stdout.columns)
const interrupt = watchInterrupt()
const schedule = { ...optimizer, steps: options.steps }
let [seconds, tokens] = [0, 0]
let since = { seconds: 0, tokens: 0, flops: 0 }

for (let step = 0; step < options.steps && !interrupt.requested; step++) {
  const start = performance.now()
  let [loss, accuracy] = [0, 0]
  for (let i = 0; i < batch.accumulate; i++) {
    const result = await learn(tokens)
    ;[loss, accuracy] = [result.loss, result.accuracy]
    tokens += batch.sequences * batch.length
    since.tokens += batch.sequences * batch.length
    since.flops += result.flops
  }
  const { gradNorm } = await update({ rate: oneCycle(step, schedule), step: step + 1 })
  const elapsed = (performance.now() - start) / 1000
  seconds += elapsed
  since.seconds += elapsed
  const done = step + 1
  progress.update(done / options.steps, `step ${done}  loss ${loss.toFixed(3)}`)

  // Evaluation is off the clock.
  const isEvaluated = done % evaluation.every === 0 || done === options.steps
  if (!isEvaluated && done % 10 !== 0) continue
  const validation = isEvaluated ? await validate() : undefined
  table.row({
    epoch: tokens / corpus.train.length,
    step: done,
    trainLoss: loss,
    valLoss: validation?.loss,
    valPerplexity: validation && Math.exp(validation.loss),
    trainAccuracy: accuracy,
    valAccuracy: validation?.accuracy,
    gradNorm: gradNorm.item(),
    bitsPerByte: validation && validation.loss / Math.LN2 / corpus.bytesPerToken,
    tokensPerSecond: since.tokens / since.seconds,
    peakShare: since.flops / since.seconds / 1e9 / backend.peakGflops,
    seconds,
  })
  const record = { seconds, step: done, tokens, train_loss: loss, grad_norm: gradNorm.item() }
  logTo(options.log, { ...record, ...(validation && { val_loss: validation.loss }) })
  since = { seconds: 0, tokens: 0, flops: 0 }
}
progress.clear()
table.close()

// ---------- Sampling ----------

/** The logits of what follows the token at `last`. Nothing after that is looked at. */
const predict = compile(({ tokens, last }) => ({
  logits: transform(tokens).reshape(-1, dim).gather(last).matmul(net.embedding.weight.T),
}))

const context = [...corpus.tokenizer.encode(options.prompt)]
const decode = corpus.tokenizer.decoder()
const text = wrapText(piece => process.stdout.write(piece))
text.write(decode(context))
for (let i = 0; i < options.sample && !interrupt.requested; i++) {
  const recent = context.slice(-batch.length)
  const room = Math.min(batch.length, 2 ** Math.ceil(Math.log2(recent.length)))
  const window = Int32Array.from({ length: room }, (_, place) => recent[place] ?? 0)
  const last = array(Int32Array.of(recent.length - 1))
  const { logits } = await predict({ tokens: array(window, [1, room]), last })
  const isToken = logits.data.subarray(0, corpus.tokenizer.vocabularySize)
  const token = sampleToken(isToken, { temperature, seed: options.seed, index: i })
  context.push(token)
  text.write(decode([token]))
}
text.end()
await backend.close()
