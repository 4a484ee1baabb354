/** The network and the training step that are measured: what bench/torch_step.py's are, on this project's engine. */
import {
  type Compiled,
  type Inputs,
  type Tensor,
  type Variable,
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
  randomNormal,
  softplus,
  variable,
} from '../engine/index.ts'
import type { Sample, Step } from './work.ts'

let keys = 0
/** Normally distributed values. */
export const normal = (shape: number[], standardDeviation: number) =>
  variable(randomNormal(shape, keys++, standardDeviation))
export const constant = (shape: number[], value: number) => variable(full(shape, value))

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
export function latentNetwork(work: Step | Sample) {
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
export interface Repetition {
  readonly compiled: Compiled<unknown>
  readonly inputs: Inputs
}

/** A training step, for batches of any shape. */
export interface Training extends Repetition {
  readonly inputsOf: (batch: number, length: number) => Inputs
  readonly parameters: readonly Variable[]
}

/** Forward, backward and AdamW on all parameters, for random tokens. */
export function trainingStep(work: Step): Training {
  const { vocabulary, length, batch } = work
  const { parameters, transform, output } = latentNetwork(work)
  const update = adamW(parameters)

  const compiled = compile(({ inputs, targets }) => {
    const loss = linearCrossEntropy(transform(inputs), output, targets).loss.mean()
    update(grad(loss, parameters))
    return { loss }
  })
  const randomToken = () => Math.floor(Math.random() * vocabulary)
  const inputsOf = (batch: number, length: number): Inputs => {
    const tokens = () => array(Int32Array.from({ length: batch * length }, randomToken), [batch, length])
    return { inputs: tokens(), targets: tokens() }
  }
  return { compiled, inputs: inputsOf(batch, length), inputsOf, parameters }
}
