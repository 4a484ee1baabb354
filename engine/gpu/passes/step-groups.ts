// Orders a program's steps so that those that can be fused run at the same place.
import type { Buffer } from '../../compiler/program.ts'
import type { TypeOf } from '../kernels/kernel.ts'
import { type FusionCandidate, type Step, candidateOf } from './fusion-candidates.ts'
import { paddedSize } from './packed-buffers.ts'

/** The most elements of a packed buffer: 64 MiB, half of what any GPU can bind. */
const mostElements = 1 << 24

/** Steps that run at the same place in a program: a single one, or several that can be fused. */
export interface StepGroup {
  readonly candidates: FusionCandidate[]
  readonly steps: Step[]
  readonly touches: Set<Buffer>
  readonly writes: Set<Buffer>
  /** Elements of the candidates' largest operands. */
  elements: number
  /** Index in the order so far. */
  at: number
  /** Whether a later step of the order depends on this group, so that it cannot move past that. */
  isHeld: boolean
}

/** Whether a step assigns variables. */
export function isUpdate({ writes }: Pick<Step, 'writes'>): boolean {
  for (const allocation of writes) if (allocation.variable) return true
  return false
}

/** Groups steps that can be fused. The other steps keep their order. */
export function groupSteps(steps: readonly Step[], typeOf: TypeOf): StepGroup[] {
  const order: (StepGroup | undefined)[] = []
  const open = new Map<string, StepGroup>()
  const uses = new Uses()
  const numbers = new Map<Buffer, number>()
  /** Where the last step is that is no candidate. */
  let lastOther = -1
  const append = (own: StepGroup) => {
    own.at = order.length
    own.isHeld = false
    order.push(own)
  }
  for (const step of steps) {
    const candidate = candidateOf(step, typeOf, numbers)
    const own: StepGroup = {
      candidates: candidate ? [candidate] : [],
      steps: [step],
      touches: new Set(step.touches),
      writes: new Set(step.writes),
      elements: candidate ? largestOf(candidate.allocations) : 0,
      at: 0,
      isHeld: false,
    }
    const group = candidate && open.get(candidate.key)
    // Updates of variables may move far. Other steps may not, since their operands would stay in memory for longer.
    const mayJoin = group && takes(group, candidate) && (isUpdate(step) || lastOther <= group.at)
    const place = mayJoin ? placeInGroup(group, step, uses) : undefined
    if (!group || !place) {
      append(own)
      if (candidate) {
        if (group) uses.close(group)
        open.set(candidate.key, own)
      } else {
        lastOther = own.at
      }
      uses.add(step, own, candidate !== undefined)
      continue
    }
    group.candidates.push(candidate)
    group.steps.push(step)
    group.elements += largestOf(candidate.allocations)
    for (const allocation of step.touches) group.touches.add(allocation)
    for (const allocation of step.writes) group.writes.add(allocation)
    if (place === 'late') {
      order[group.at] = undefined
      append(group)
    }
    uses.add(step, group, true)
  }
  return order.filter(own => own !== undefined)
}

/**
 * Where a step that follows all others can run with a group: where the group is (early), after all others (late), or
 * nowhere.
 */
function placeInGroup(group: StepGroup, step: Step, uses: Uses): 'early' | 'late' | undefined {
  if (uses.lastConflict(step) <= group.at) return 'early'
  return group.isHeld ? undefined : 'late'
}

/** The groups that use a buffer: the place of the last fixed one, and those that may still move. */
interface Users {
  fixed: number
  readonly open: Set<StepGroup>
}

/** The groups that touch each buffer, and those that write it. */
class Uses {
  private readonly touched = new Map<Buffer, Users>()
  private readonly written = new Map<Buffer, Users>()

  /** Notes a step of a group. isOpen: whether the group may still move. */
  add({ touches, writes }: Step, group: StepGroup, isOpen: boolean): void {
    // Groups before it that it depends on, or that depend on it, cannot move past it.
    for (const allocation of writes) hold(this.touched.get(allocation), group)
    for (const allocation of touches) hold(this.written.get(allocation), group)
    const note = (users: Users) => {
      if (isOpen) users.open.add(group)
      else users.fixed = Math.max(users.fixed, group.at)
    }
    for (const allocation of touches) note(usersOf(this.touched, allocation))
    for (const allocation of writes) note(usersOf(this.written, allocation))
  }

  /** Notes that a group stays where it is. */
  close(group: StepGroup): void {
    const note = (users: Users) => {
      users.open.delete(group)
      users.fixed = Math.max(users.fixed, group.at)
    }
    for (const allocation of group.touches) note(usersOf(this.touched, allocation))
    for (const allocation of group.writes) note(usersOf(this.written, allocation))
  }

  /** The place of the last group that a step has to follow; -1 if there is none. */
  lastConflict({ touches, writes }: Step): number {
    let last = -1
    for (const allocation of writes) last = Math.max(last, lastOf(this.touched.get(allocation)))
    for (const allocation of touches) last = Math.max(last, lastOf(this.written.get(allocation)))
    return last
  }
}

function usersOf(all: Map<Buffer, Users>, allocation: Buffer): Users {
  const users = all.get(allocation) ?? { fixed: -1, open: new Set() }
  all.set(allocation, users)
  return users
}

function hold(users: Users | undefined, by: StepGroup): void {
  for (const group of users?.open ?? []) if (group.at < by.at) group.isHeld = true
}

function lastOf(users: Users | undefined): number {
  let last = users?.fixed ?? -1
  for (const { at } of users?.open ?? []) last = Math.max(last, at)
  return last
}

/** Whether a group can take one more candidate: each operand has to be the same for all, or a different one for each. */
function takes({ candidates, touches, elements }: StepGroup, candidate: FusionCandidate): boolean {
  const [first, second] = candidates
  if (elements + largestOf(candidate.allocations) > mostElements) return false
  return candidate.allocations.every((allocation, i) => {
    const isShared = second
      ? second.allocations[i] === first.allocations[i]
      : allocation === first.allocations[i]
    if (!isShared) return !touches.has(allocation)
    const isWhole = candidate.isFlat && allocation.size === candidate.work.columns
    return allocation === first.allocations[i] && !isWhole && !candidate.step.writes.has(allocation)
  })
}

const largestOf = (allocations: readonly Buffer[]): number =>
  Math.max(...allocations.map(({ size }) => paddedSize(size)))
