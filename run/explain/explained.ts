/** Compiled programs as --explain and --profile show them: kernels with words, lines, names of memory, costs and times. */
import type { CompiledProgram, KernelCall, StepTime, Tensor } from '../../engine/index.ts'
import { type BufferName, nameBuffers } from './buffers.ts'
import { type LineShare, compareOrigins, linesOf } from './lines.ts'
import { wordsOf } from './words.ts'

/** A kernel, ready to be shown. */
export interface ExplainedKernel {
  readonly call: KernelCall
  readonly words: string
  readonly lines: readonly LineShare[]
  readonly reads: readonly BufferName[]
  readonly writes: readonly BufferName[]
}

/** Kernels that run over the same blocks of rows, and what they took together where that was measured. */
export interface ExplainedStep {
  readonly kernels: readonly ExplainedKernel[]
  readonly barrier: boolean | undefined
  readonly milliseconds: number | undefined
}

/** A compiled function, ready to be shown. */
export interface ExplainedProgram {
  /** What the script calls it, such as 'train'. */
  readonly name: string
  readonly compiled: CompiledProgram
  readonly steps: readonly ExplainedStep[]
}

/** variables: their names. times: what each step took, in the program's order. */
export function explain(
  name: string,
  compiled: CompiledProgram,
  variables: ReadonlyMap<Tensor, string>,
  times?: readonly StepTime[],
): ExplainedProgram {
  const steps = compiled.steps()
  const nameOf = nameBuffers(compiled, steps, variables)
  return {
    name,
    compiled,
    steps: steps.map(({ kernels, barrier }, i) => ({
      barrier,
      milliseconds: times?.[i].milliseconds,
      kernels: kernels.map(call => ({
        call,
        words: wordsOf(call),
        lines: linesOf(call),
        reads: call.reads.map(nameOf),
        writes: call.writes.map(nameOf),
      })),
    })),
  }
}

/** What belongs to a line, or to all of a function's. */
export interface Cost {
  /** NaN where no times were measured. */
  readonly milliseconds: number
  readonly flops: number
  readonly bytes: number
}

/** A line's cost, without and with what its gradient costs. */
export interface LineCost {
  readonly origin: LineShare['origin'] | undefined
  /** The function that has the line, or the compiled function that it is directly in. */
  readonly function: string
  readonly forward: Cost
  readonly gradient: Cost
  readonly total: Cost
}

const nothing: Cost = { milliseconds: 0, flops: 0, bytes: 0 }

export const plus = (a: Cost, b: Cost): Cost => ({
  milliseconds: a.milliseconds + b.milliseconds,
  flops: a.flops + b.flops,
  bytes: a.bytes + b.bytes,
})

export const sumOf = (costs: readonly Cost[]): Cost => costs.reduce(plus, nothing)

/** About how long a kernel takes, to divide a step's time among its kernels: 100 GFLOP/s and 20 GB/s. */
const weightOf = ({ flops, bytes }: KernelCall): number => flops + 5 * bytes + 1

/** The cost of each kernel of a step. */
export function kernelCosts({ kernels, milliseconds = NaN }: ExplainedStep): Cost[] {
  const all = kernels.reduce((sum, { call }) => sum + weightOf(call), 0)
  return kernels.map(({ call }) => ({
    milliseconds: (milliseconds * weightOf(call)) / all,
    flops: call.flops,
    bytes: call.bytes,
  }))
}

/** What each line of the script costs, in the order of the script; what comes from no line is last. */
export function lineCosts(programs: readonly ExplainedProgram[]): LineCost[] {
  const costs = new Map<string, LineCost>()
  const add = (program: string, origin: LineShare['origin'] | undefined, cost: Cost) => {
    const key = origin ? `${origin.file}:${origin.line}:${origin.function ?? program}` : ''
    const known = costs.get(key) ?? {
      origin: origin && { ...origin, isGradient: false },
      function: origin ? (origin.function ?? program) : 'elsewhere',
      forward: nothing,
      gradient: nothing,
      total: nothing,
    }
    const part = origin?.isGradient ? 'gradient' : 'forward'
    costs.set(key, { ...known, [part]: plus(known[part], cost), total: plus(known.total, cost) })
  }
  for (const { name, steps } of programs)
    for (const step of steps)
      kernelCosts(step).forEach((cost, i) => {
        const { lines } = step.kernels[i]
        if (lines.length === 0) add(name, undefined, cost)
        for (const { origin, share } of lines)
          add(name, origin, {
            milliseconds: cost.milliseconds * share,
            flops: cost.flops * share,
            bytes: cost.bytes * share,
          })
      })
  return [...costs.values()].sort((a, b) =>
    a.origin && b.origin ? compareOrigins(a.origin, b.origin) : Number(!a.origin) - Number(!b.origin),
  )
}

/** What each function of the script costs: its lines, in order. */
export interface FunctionCost {
  readonly name: string
  readonly lines: readonly LineCost[]
  readonly forward: Cost
  readonly gradient: Cost
  readonly total: Cost
}

/** The functions that have the lines, in the order of the script. */
export function functionCosts(programs: readonly ExplainedProgram[]): FunctionCost[] {
  return [...Map.groupBy(lineCosts(programs), line => line.function)].map(([name, lines]) => ({
    name,
    lines,
    forward: sumOf(lines.map(({ forward }) => forward)),
    gradient: sumOf(lines.map(({ gradient }) => gradient)),
    total: sumOf(lines.map(({ total }) => total)),
  }))
}

/** Every origin of a kernel. */
export const originsOf = (programs: readonly ExplainedProgram[]): LineShare['origin'][] =>
  programs.flatMap(({ steps }) =>
    steps.flatMap(({ kernels }) => kernels.flatMap(({ lines }) => lines.map(({ origin }) => origin))),
  )
