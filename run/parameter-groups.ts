/** Gives each parameter of a network the optimizer of its group, as PyTorch's parameter groups do. */
import { type Parameters, type Tensor, Variable, full, parametersOf, variable } from '../engine/index.ts'

/**
 * An optimizer for one parameter: returns what takes a step. `keep` makes a variable of the parameter's shape that
 * starts at zero and is part of checkpoints, such as a momentum.
 */
export type Optimizer = (parameter: Variable, keep: (name: string) => Variable) => Update

/**
 * Assigns the parameter, and what is kept for it, their values after a step along this gradient. `rate` is the share of
 * the learning rate that the schedule gives, 0 to 1; `step` counts from 1.
 */
export type Update = (gradient: Tensor, rate: Tensor, step: Tensor) => void

/** The parameters of a network with their optimizers. */
export type ParameterGroups = {
  readonly parameters: readonly Variable[]
  /** What the optimizers keep, by the names of the parameters. */
  readonly state: Readonly<Record<string, Readonly<Record<string, Variable>>>>
  /** Takes a step along these gradients, one for each parameter, in a function given to compile(). */
  update(gradients: readonly Tensor[], rate: Tensor, step: Tensor): void
}

/** A parameter gets the optimizer of the first group whose pattern matches its name, such as 'blocks.0.expand'. */
export function parameterGroups(
  network: Parameters,
  groups: readonly (readonly [pattern: RegExp, optimizer: Optimizer])[],
): ParameterGroups {
  const state: Record<string, Record<string, Variable>> = {}
  const slots = parametersOf(network).map(([name, parameter]) => {
    const group = groups.find(([pattern]) => pattern.test(name))
    if (!group) throw new Error(`no optimizer for ${name}: the pattern of some group has to match it`)
    const kept = (state[name] = {})
    return { parameter, update: optimizerFor(group[1], parameter, kept) }
  })
  return {
    parameters: slots.map(({ parameter }) => parameter),
    state,
    update: (gradients, rate, step) => slots.forEach(({ update }, i) => update(gradients[i], rate, step)),
  }
}

const optimizerFor = (optimizer: Optimizer, parameter: Variable, kept: Record<string, Variable>): Update =>
  optimizer(parameter, name => (kept[name] = variable(full(parameter.shape, 0))))
