/** Compiles a graph to a program: canonicalize, fold addends, lower, schedule. */
import { foldAddends } from './addends.ts'
import { canonicalize } from './canonicalize.ts'
import { lower } from './lower.ts'
import type { VariableNode } from './lowered.ts'
import type { Pausing } from './pauses.ts'
import type { Program } from './program.ts'
import { schedule } from './schedule.ts'
import { reachable } from '../graph/node.ts'
import type { Tensor } from '../graph/tensor.ts'

/**
 * The program that computes outputs and assigns variables their new values, and the variables that it uses, in the
 * order of their buffers. inputs: the nodes that stand for the function's inputs. Throws if the graph reads another
 * function's inputs.
 */
export function* makeProgram(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<VariableNode, Tensor>,
  inputs: readonly Tensor[],
): Pausing<{ program: Program; variables: VariableNode[] }> {
  const roots = yield* foldAddends(yield* canonicalize([...outputs, ...assignments.values()]))
  checkInputs(roots, new Set(inputs))
  const results = roots.slice(0, outputs.length)
  const assigned = new Map(
    [...assignments.keys()].map((variable, i) => [variable, roots[outputs.length + i]]),
  )
  const lowered = yield* lower(results, assigned, inputs)
  const instructions = yield* schedule(lowered)
  const program = {
    instructions,
    inputs: lowered.inputs,
    outputs: lowered.outputs,
    variables: [...lowered.variables.values()],
  }
  return { program, variables: [...lowered.variables.keys()] }
}

function checkInputs(roots: readonly Tensor[], inputs: ReadonlySet<Tensor>): void {
  for (const tensor of reachable(roots)) {
    const { operation } = tensor
    if (operation.kind === 'input' && !inputs.has(tensor)) {
      throw new Error(
        `compile: input '${operation.name}' of another function is used; pass it as an input of this one`,
      )
    }
  }
}
