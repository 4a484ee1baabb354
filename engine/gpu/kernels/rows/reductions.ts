// Sums and maxima in WGSL: over the lanes of a vector, over invocations, and over the steps of a long loop.
import { type Elementwise, type Lanes, splat } from '../elementwise.ts'
import type { Target } from '../kernel.ts'
import type { Code, WorkgroupMemory } from './code.ts'
import type { RowPlan } from './row-plan.ts'

export type ReductionName = 'sum' | 'max'

/**
 * Sums over more than `plainSteps` steps go by levels, as on the CPU: after `sumSteps` steps, or sums of the level below,
 * a sum is added to the level above and starts again from zero.
 */
const plainSteps = 128
const sumSteps = 32

/** A level above the first: the suffix of its sums' names, and the steps that fill the level below. */
interface Level {
  readonly suffix: string
  readonly steps: number
}

/** The levels above the first for a sum of so many steps. */
export function levelsOf(all: number): Level[] {
  const levels: Level[] = []
  if (all <= plainSteps) return levels
  for (let steps = sumSteps; steps < all; steps *= sumSteps)
    levels.push({ suffix: `_${levels.length + 1}`, steps })
  return levels
}

export class Reductions {
  private readonly plan: RowPlan
  private readonly target: Target
  private readonly elementwise: Elementwise
  private readonly code: Code
  private readonly shared: WorkgroupMemory
  private arrays = 0

  constructor(plan: RowPlan, target: Target, elementwise: Elementwise, code: Code, shared: WorkgroupMemory) {
    this.plan = plan
    this.target = target
    this.elementwise = elementwise
    this.code = code
    this.shared = shared
  }

  /** The vector that a reduction starts from. */
  identity(name: ReductionName): string {
    const { lanes } = this.plan
    return splat(name === 'sum' ? '0f' : this.elementwise.infinity(false), 'float32', lanes)
  }

  combine(name: ReductionName, a: string, b: string, lanes: Lanes): string {
    return this.elementwise.binary(name === 'sum' ? 'add' : 'maximum', a, b, 'float32', lanes)
  }

  /** Reduces a vector to a scalar. */
  withinVector(name: ReductionName, vector: string): string {
    const { lanes } = this.plan
    if (lanes === 1) return vector
    const elements = Array.from({ length: lanes }, (_, lane) => `${vector}[${lane}]`)
    return elements.reduce((total, element) => this.code.let(this.combine(name, total, element, 1)))
  }

  /** Reduces the values of `width` neighbouring invocations, a team or the workgroup. All of them get the result. */
  across(value: string, name: ReductionName, width: number): string {
    const { code } = this
    const { size, team } = this.plan
    const { subgroups } = this.target
    if (width === 1) return value
    const [member, first] = width === team ? ['member', 'team'] : ['worker', '0u']
    const combine = (a: string, b: string) => this.combine(name, a, b, 1)
    if (!subgroups) {
      const shared = this.share(size)
      code.push(`${shared}[worker] = ${value};`)
      for (let half = width / 2; half >= 1; half /= 2) {
        const combined = combine(`${shared}[worker]`, `${shared}[worker + ${half}u]`)
        code.push('workgroupBarrier();', `if (${member} < ${half}u) { ${shared}[worker] = ${combined}; }`)
      }
      code.push('workgroupBarrier();')
      return code.let(`${shared}[worker - ${member}]`)
    }
    const total = code.variable(value)
    const { smallest, largest } = subgroups
    const isKnown = width <= smallest || smallest === largest
    const span = isKnown ? `${Math.min(width, smallest)}u` : code.let(`min(subgroup_size, ${width}u)`)
    if (isKnown) {
      for (let mask = 1; mask < Math.min(width, smallest); mask *= 2)
        code.push(`${total} = ${combine(total, `subgroupShuffleXor(${total}, ${mask}u)`)};`)
    } else {
      const combined = combine(total, `subgroupShuffleXor(${total}, mask)`)
      code.push(`for (var mask = 1u; mask < ${span}; mask *= 2u) { ${total} = ${combined}; }`)
    }
    if (width <= smallest) return total
    const shared = this.share(size / smallest)
    const count = code.let(`${width}u / ${span}`)
    const start = code.let(`${first} * ${count}`)
    code.push(
      `if (lane % ${span} == 0u) { ${shared}[worker / ${span}] = ${total}; }`,
      'workgroupBarrier();',
      `${total} = ${shared}[${start}];`,
      `for (var other = 1u; other < ${count}; other++) { ${total} = ${combine(total, `${shared}[${start} + other]`)}; }`,
    )
    return total
  }

  /** Declares the sums of the levels above the first. */
  declareLevels(totals: readonly string[], levels: readonly Level[]): void {
    for (const total of totals)
      for (const { suffix } of levels) this.code.push(`var ${total}${suffix} = ${this.zero};`)
  }

  /** Adds full levels to those above. Opens a condition for each level, which the caller closes. turn: steps done. */
  carryLevels(totals: readonly string[], levels: readonly Level[], turn: string): void {
    for (const [level, { suffix, steps }] of levels.entries()) {
      this.code.push(`if (${turn} % ${steps}u == 0u) {`)
      for (const total of totals) {
        const below = level === 0 ? total : `${total}${levels[level - 1].suffix}`
        this.code.push(`${total}${suffix} += ${below};`, `${below} = ${this.zero};`)
      }
    }
  }

  /** Adds all levels up. */
  addLevels(totals: readonly string[], levels: readonly Level[]): void {
    for (const total of totals)
      for (const { suffix } of levels) this.code.push(`${total} += ${total}${suffix};`)
  }

  private get zero(): string {
    return splat('0f', 'float32', this.plan.lanes)
  }

  /** A shared array of floats. Two alternate, since the previous one may still be read. */
  private share(count: number): string {
    const name = `shared${this.arrays++ % 2}`
    this.shared.declare(name, 'f32', count)
    return name
  }
}
