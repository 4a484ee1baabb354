// hlb-gpt 0.4, the recipe that main.ts started from: latent attention, and a schedule that follows the loss and
// the gradient norm. Everything is scaled from the number of parameters. npm start -- baselines/hlb-gpt-0.4.ts
//
// After https://github.com/tysam-code/hlb-gpt, version 0.4.1. What differs: float32 instead of bfloat16; text
// is shuffled instead of drawn at random places; validation covers the same text each time, with its last
// batch; the last step is always evaluated; microbatches have an upper bound; P stays in the equations' range.
import { sampleBatch, validationBatches } from '../data/batches.ts'
import { loadCorpus } from '../data/corpus.ts'
import { sampleToken } from '../data/sample.ts'
import { hash } from '../data/shuffle.ts'
import {
  type Tensor,
  array,
  assign,
  attention,
  compile,
  concat,
  full,
  gelu,
  grad,
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
import { chooseBackend, deviceFlags } from '../run/device.ts'
import { handleErrors } from '../run/errors.ts'
import { headerText } from '../run/header.ts'
import { watchInterrupt } from '../run/interrupt.ts'
import { logTo } from '../run/log.ts'
import { choosePieces, memoryLimit, pieceRanges, showBytes } from '../run/memory.ts'
import { parseOptions } from '../run/options.ts'
import { createProgress } from '../run/progress.ts'
import { createTable, trainingColumns } from '../run/table.ts'
import { loadWeights } from '../run/weights.ts'
import { wrapText } from '../run/wrap.ts'
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

handleErrors()

// ---------- Hyperparameters ----------

const options = parseOptions(process.argv.slice(2), {
  summary: 'hlb-gpt 0.4: trains its network by its recipe, prints how it goes, then writes text of its own.',
  flags: {
    data: { type: 'string', value: 'FILE', help: 'text to train on (State of the Union addresses)' },
    steps: { type: 'integer', default: 1000, minimum: 1, help: 'steps of the optimizer' },
    seed: { type: 'integer', default: 0, minimum: 0, help: 'of the first weights and the order of the data' },
    init: { type: 'string', value: 'FILE', help: 'first weights, as .safetensors by their names in PyTorch' },
    memory: { type: 'string', value: 'SIZE', help: 'such as 4GB (three quarters of what is free)' },
    ...deviceFlags,
    prompt: { type: 'string', default: 'In 1856, Abraham Lincoln', help: 'what the sample starts with' },
    sample: { type: 'integer', default: 512, minimum: 0, help: 'tokens to sample at the end' },
    log: { type: 'string', value: 'FILE', help: 'append every row of the table to FILE, as JSON lines' },
  },
  hyperparameters: {
    modelScale: 1, // the size of the network, in multiples of about 46 million parameters
    net: {
      dim: 0, // channels between blocks; 0: by modelScale,
      blocks: 0, // as these
      keyDimDivisor: 8,
      expand: 2,
    },
    batch: {
      capacity: 114688, // tokens that the machine holds at modelScale 1, for which the rest was tuned
      firstLength: 32,
      length: 1024,
      growEvery: 80, // steps after which sequences double
    },
    optimizer: {
      rate: 2.62, // learning rates: a multiple of the base rate,
      nonDotProductRate: 32, // and multiples of that one for embedding and norms,
      outputRate: 2, // output,
      positionBiasRate: 100, // and position biases
      weightDecay: 2 ** 4, // of the blocks' matrices, were the loss 0
      warmup: 100, // steps
    },
    microbatch: {
      sampleEvery: 5, // steps between looks at the gradient norm
      rate: 0.1,
      most: 64, // of them in a step,
      mostOutside: 8, // and where the recipe is not made for the network: there they would grow without end
    },
    evaluation: { every: 50, tokens: 153600 },
    temperature: 1,
  },
  rules: {
    modelScale: { minimum: 0 },
    'net.dim': { integer: true, minimum: 0 },
    'net.blocks': { integer: true, minimum: 0 },
    'net.keyDimDivisor': { integer: true, minimum: 1 },
    'net.expand': { integer: true, minimum: 1 },
    'batch.capacity': { integer: true, minimum: 1 },
    'batch.firstLength': { integer: true, minimum: 1 },
    'batch.length': { integer: true, minimum: 1 },
    'batch.growEvery': { integer: true, minimum: 1 },
    'optimizer.warmup': { integer: true, minimum: 0 },
    'microbatch.sampleEvery': { integer: true, minimum: 1 },
    'microbatch.most': { minimum: 1 },
    'microbatch.mostOutside': { minimum: 1 },
    'evaluation.every': { integer: true, minimum: 1 },
    'evaluation.tokens': { integer: true, minimum: 1 },
    temperature: { minimum: 0 },
  },
})
const { modelScale, net: size, batch, optimizer, evaluation, temperature } = options.hyperparameters
const inferred = networkSize(modelScale)
const dim = size.dim || inferred.dim
const blocks = size.blocks || inferred.blocks
const keyDim = Math.max(1, Math.floor(dim / size.keyDimDivisor))
const wide = dim * size.expand
const tokensPerMicrobatch = tokensPerBatch(batch.capacity, modelScale)

const memory = memoryLimit(options.memory)
const backend = await chooseBackend(options)
useBackend(backend)

// ---------- Data ----------

const corpus = await loadCorpus({ data: options.data, sequenceLength: batch.length, report: console.error })
const vocabulary = 64 * Math.ceil(corpus.tokenizer.vocabularySize / 64) // 50,304 for GPT-2's 50,257

// ---------- Network: named as in the original's state_dict, net_dict.attn_layers.0.expand and so on ----------

let seed = options.seed * 1000
const weights = (rows: number, columns: number, scale: number) =>
  variable(randomNormal([rows, columns], seed++, scale / Math.sqrt(dim)))
const constant = (shape: readonly number[], value: number) => variable(full(shape, value))

const net = {
  embedding: { weight: weights(vocabulary, dim, 0.25) },
  attn_layers: Array.from({ length: blocks }, () => ({
    norm: { weight: constant([dim], 1) },
    expand: weights(2 * keyDim + 2 * wide, dim, 0.5 / size.expand),
    project: weights(dim, wide, 1 / size.expand / blocks),
    position_bias_mult: constant([], 1),
  })),
  norm: { weight: constant([dim], 1) },
  outputs: { weight: weights(vocabulary, dim, 0.5) },
}

if (options.init !== undefined) await loadWeights(options.init, { net_dict: net })

/** Linear queries and keys; the values are half of a GEGLU, whose other half attention does not move. */
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

/** Mean loss in nats a token, and how often the right token was the likeliest. */
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
const parameterCount = parameters.reduce((sum, { parameter }) => sum + parameter.size, 0)
const scaledCount = clampParameters(parameterCount)
const scaling = scalingOf(scaledCount)
const rate = scaling.baseRate * optimizer.rate
const { sampleEvery, rate: microbatchRate, ...bounds } = options.hyperparameters.microbatch
const isOutside = scaledCount !== parameterCount
const mostMicrobatches = isOutside ? Math.min(bounds.most, bounds.mostOutside) : bounds.most

// ---------- Optimizer: gradients add up over microbatches, then AdamW takes one step ----------

/** Adds the gradient of a piece of the step's batch. `share`: how much of the batch it is. */
const accumulate = compile(({ inputs, targets, rarity, share }) => {
  const embedded = embed(inputs)
  const { loss, accuracy } = lossOf(embedded, targets)
  const [embedding, ...others] = parameters
  const [embeddedGradient, ...gradients] = grad(loss, [embedded, ...others.map(({ parameter }) => parameter)])
  // PyTorch's scale_grad_by_freq: a token's row learns as much from a batch whether it is common or rare.
  const rows = embeddedGradient.mul(rarity.reshape(...inputs.shape, 1)).mul(share)
  assign(embedding.gradient, embedding.gradient.add(scatterAdd(rows, inputs, vocabulary)))
  others.forEach(({ gradient }, i) => assign(gradient, gradient.add(gradients[i].mul(share))))
  return { loss, accuracy }
})

/** AdamW (Loshchilov & Hutter 2019) on the gradients that have added up. step counts from 1. */
const update = compile(({ bodyRate, outputRate, biasRate, weightDecay, step }) => {
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

// ---------- Memory: a microbatch goes through the network in as many pieces as it takes ----------

const updatePlan = await update.prepare({ bodyRate: 0, outputRate: 0, biasRate: 0, weightDecay: 0, step: 0 })
const sequencesOf = (length: number) => Math.max(1, Math.floor(tokensPerMicrobatch / length))

async function temporaryBytes(sequences: number, length: number) {
  const shape = [sequences, length]
  const tokens = array(new Int32Array(sequences * length), shape)
  const rarity = array(new Float32Array(sequences * length), shape)
  const plan = await accumulate.prepare({ inputs: tokens, targets: tokens, rarity, share: 0 })
  return Math.max(plan.temporaryBytes, updatePlan.temporaryBytes)
}
const { variableBytes } = updatePlan
const piecesFor = (length: number, limit: number) =>
  choosePieces({ sequences: sequencesOf(length), length, limit, variableBytes, temporaryBytes })
// The longest sequences take the most memory: if they do not fit, it is said now. The others make do with theirs.
const largestPiece = Math.ceil(sequencesOf(batch.length) / (await piecesFor(batch.length, memory)))
const planned = await temporaryBytes(largestPiece, batch.length)

// ---------- Training ----------

/** Sends a microbatch through the network and back, and adds its gradient to that of the step. */
async function learn(length: number, pieces: number, tokensSeen: number, shareOfStep: number) {
  const sequences = sequencesOf(length)
  const { inputs, targets } = sampleBatch(corpus.train, sequences, length, { seed: options.seed, tokensSeen })
  const counts = new Int32Array(vocabulary)
  for (const token of inputs) counts[token]++
  const rarity = Float32Array.from(inputs, token => 1 / counts[token])
  let [loss, accuracy, flops] = [0, 0, 0]
  for (const { start, end } of pieceRanges(sequences, pieces)) {
    const part = <Data extends Float32Array | Int32Array>(data: Data) =>
      array(data.subarray(start * length, end * length), [end - start, length])
    const share = (end - start) / sequences
    const piece = {
      inputs: part(inputs),
      targets: part(targets),
      rarity: part(rarity),
      share: share * shareOfStep,
    }
    const means = await accumulate(piece)
    loss += means.loss.item() * share
    accuracy += means.accuracy.item() * share
    flops += (await accumulate.prepare(piece)).flops
  }
  return { loss, accuracy, flops }
}

const evaluate = compile(({ inputs, targets }) => lossOf(embed(inputs), targets))

/** Loss and accuracy on the first tokens of the validation text, at full length. */
async function validate() {
  let [loss, accuracy, sequences] = [0, 0, 0]
  const limit = { tokenLimit: Math.max(evaluation.tokens, batch.length) }
  const together = Math.min(16, largestPiece)
  for (const { inputs, targets, batchSize } of validationBatches(
    corpus.validation,
    together,
    batch.length,
    limit,
  )) {
    const shape = [batchSize, batch.length]
    const means = await evaluate({ inputs: array(inputs, shape), targets: array(targets, shape) })
    loss += means.loss.item() * batchSize
    accuracy += means.accuracy.item() * batchSize
    sequences += batchSize
  }
  return { loss: loss / sequences, accuracy: accuracy / sequences }
}

const millions = (count: number) => `${(count / 1e6).toFixed(count < 1e7 ? 2 : 0)} million`
const { least, most } = safeParameters
console.log(
  headerText({
    text: `${corpus.name}, ${corpus.train.length} tokens to train on and ${corpus.validation.length} to validate with`,
    network: `${parameterCount} parameters in ${blocks} blocks of ${dim} channels`,
    batch: `microbatches of ${tokensPerMicrobatch} tokens, in sequences of ${batch.firstLength} to ${batch.length}`,
    rate: `${rate.toPrecision(3)} for the blocks`,
    ...(isOutside && {
      caution:
        `the recipe is made for ${millions(least)} to ${millions(most)} parameters: ` +
        `these ${millions(parameterCount)} get the rates of ${millions(scaledCount)}, and at most ${mostMicrobatches} microbatches`,
    }),
    memory:
      `${showBytes(variableBytes)} for variables, ${showBytes(planned)} ` +
      `for ${largestPiece} of the longest sequences at a time; ${showBytes(memory)} allowed`,
    backend: backend.description,
  }),
)

const progress = createProgress()
const columns = {
  ...trainingColumns,
  microbatches: { heading: 'microbatches', width: 5, format: toFixed2, spare: 5 },
}
const table = createTable(columns, progress.print, process.stdout.columns)
const interrupt = watchInterrupt()
let [seconds, tokens, length] = [0, 0, batch.firstLength]
let pieces = await piecesFor(length, variableBytes + planned)
let [microbatches, microbatchCount, weightDecay] = [0, 1, optimizer.weightDecay]
let since = { seconds: 0, tokens: 0, flops: 0 }

for (let step = 0; step < options.steps && !interrupt.requested; step++) {
  const start = performance.now()
  let [loss, accuracy] = [0, 0]
  for (let i = 0; i < microbatchCount; i++) {
    const result = await learn(length, pieces, tokens, 1 / microbatchCount)
    ;[loss, accuracy] = [result.loss, result.accuracy]
    tokens += sequencesOf(length) * length
    since.tokens += sequencesOf(length) * length
    since.flops += result.flops
  }
  const multiples = rateMultiples(step, optimizer.warmup)
  const { gradNorm: gradNormNow } = await update({
    bodyRate: rate * multiples.body,
    outputRate: rate * multiples.output,
    biasRate: rate * multiples.positionBias,
    weightDecay,
    step: step + 1,
  })
  const gradNorm = gradNormNow.item()

  const record = { tokens, length, microbatches: microbatchCount, train_loss: loss, grad_norm: gradNorm }

  // The next step's weight decay follows from this one's loss, its batch from the gradient norm.
  weightDecay = weightDecayAfter(loss, scaling, optimizer.weightDecay)
  const sequence = { growEvery: batch.growEvery, longest: batch.length }
  const nextLength = lengthAfter(step, length, sequence)
  if (nextLength !== length) pieces = await piecesFor((length = nextLength), variableBytes + planned)
  const looks = { sampleEvery, rate: microbatchRate, most: mostMicrobatches }
  microbatches = microbatchesAfter(step, microbatches, { ...looks, parameters: scaledCount, gradNorm })
  microbatchCount = dither(microbatches, hash(options.seed, step) / 2 ** 32)

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
    gradNorm,
    microbatches,
    bitsPerByte: validation && validation.loss / Math.LN2 / corpus.bytesPerToken,
    tokensPerSecond: since.tokens / since.seconds,
    peakShare: since.flops / since.seconds / 1e9 / backend.peakGflops,
    seconds,
  })
  const times = { seconds, step: done }
  logTo(options.log, { ...times, ...record, ...(validation && { val_loss: validation.loss }) })
  since = { seconds: 0, tokens: 0, flops: 0 }
}
progress.clear()
table.close()

function toFixed2(value: number): string {
  return value.toFixed(2)
}

// ---------- Sampling ----------

/** The logits of what follows the token at `last`. Nothing after that is looked at. */
const predict = compile(({ tokens, last }) => ({
  logits: transform(embed(tokens)).reshape(-1, dim).gather(last).matmul(net.outputs.weight.T),
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
