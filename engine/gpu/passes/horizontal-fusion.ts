import type { Access, Buffer, RowProgram } from '../../compiler/program.ts'
import {
  type PackedBuffer,
  type PackedPlace,
  packedBufferOf,
  paddedSize,
  startsOf,
} from './packed-buffers.ts'
import type { Batch } from '../kernels/rows/row-kernel.ts'
import {
  type FusionCandidate,
  type Step,
  candidateOf,
  elementsOf,
  isRowProgram,
} from './fusion-candidates.ts'
import type { TypeOf } from '../kernels/kernel.ts'
import { rootsOf } from './row-programs.ts'

// Equal programs over different memory become one: the many small updates of an optimizer, above all. Their operands
// are laid side by side in one buffer each, an arena, since a kernel may use a few buffers only.

/** Several equal programs as one. */
export interface HorizontalFusion {
  readonly works: readonly RowProgram[]
  readonly program: RowProgram
  /** Where the program is the first of a batch. */
  readonly batch?: Batch
}

/** Elements of an arena, at most: 64 MiB, half of what can be bound anywhere. */
const mostElements = 1 << 24

/** Steps that run at the same place in a program: one, or joined ones. */
interface Node {
  readonly candidates: FusionCandidate[]
  readonly steps: Step[]
  readonly touches: Set<Buffer>
  readonly writes: Set<Buffer>
  /** Elements of the candidates' largest operands. */
  elements: number
  /** Index in the order so far. */
  at: number
  /** Whether something that comes after it in the order does not go together with it. */
  isHeld: boolean
}

/**
 * Joins programs, moving them past others where neither sees it. places: where variables lie already, for other programs'
 * sake; those of joined programs are added. halves: the f16 copies of variables.
 */
export function fuseHorizontally(
  steps: readonly Step[],
  typeOf: TypeOf,
  halves: ReadonlyMap<Buffer, Buffer>,
  places: Map<Buffer, PackedPlace>,
): (Step | HorizontalFusion)[] {
  const nodes = gather(steps, typeOf)
  const arrangement = new Arrangement(steps, halves, places)
  const joined = new Map<Node, HorizontalFusion>()
  const several = nodes.filter(({ candidates }) => candidates.length > 1)
  const size = ({ candidates }: Node) => candidates.reduce((sum, { work }) => sum + elementsOf(work), 0)
  // Updates come first, then the most work: those that follow put up with where memory lies then.
  const [updates, others] = [several.filter(isUpdate), several.filter(node => !isUpdate(node))]
  for (const nodes of [updates, others]) {
    for (const node of nodes.sort((a, b) => size(b) - size(a))) {
      const one = arrangement.join(node.candidates)
      if (one) joined.set(node, one)
    }
  }
  return nodes.flatMap((node): (Step | HorizontalFusion)[] => {
    const one = joined.get(node)
    return one ? [one] : node.steps
  })
}

/** Whether variables are assigned. */
function isUpdate({ writes }: Pick<Step, 'writes'>): boolean {
  for (const root of writes) if (root.variable) return true
  return false
}

/** Puts steps that can be joined at the same place; the others keep their order. */
function gather(steps: readonly Step[], typeOf: TypeOf): Node[] {
  const order: (Node | undefined)[] = []
  const open = new Map<string, Node>()
  const uses = new Uses()
  const numbers = new Map<Buffer, number>()
  /** The last that is no candidate. */
  let lastOther = -1
  const append = (node: Node) => {
    node.at = order.length
    node.isHeld = false
    order.push(node)
  }
  for (const step of steps) {
    const candidate = candidateOf(step, typeOf, numbers)
    const node: Node = {
      candidates: candidate ? [candidate] : [],
      steps: [step],
      touches: new Set(step.touches),
      writes: new Set(step.writes),
      elements: candidate ? largestOf(candidate.roots) : 0,
      at: 0,
      isHeld: false,
    }
    const group = candidate && open.get(candidate.key)
    // Updates of variables wait for each other; else next to nothing is to stay in memory for longer.
    const mayMeet = group && takes(group, candidate) && (isUpdate(step) || lastOther <= group.at)
    const meeting = mayMeet ? meetingPlace(group, step, uses) : undefined
    if (!group || !meeting) {
      append(node)
      if (candidate) {
        if (group) uses.close(group)
        open.set(candidate.key, node)
      } else {
        lastOther = node.at
      }
      uses.add(step, node, candidate !== undefined)
      continue
    }
    group.candidates.push(candidate)
    group.steps.push(step)
    group.elements += largestOf(candidate.roots)
    for (const root of step.touches) group.touches.add(root)
    for (const root of step.writes) group.writes.add(root)
    if (meeting === 'late') {
      order[group.at] = undefined
      append(group)
    }
    uses.add(step, group, true)
  }
  return order.filter(node => node !== undefined)
}

/** Where a step that follows all in the order can run together with a group in it: where that is, or after all; or nowhere. */
function meetingPlace(group: Node, step: Step, uses: Uses): 'early' | 'late' | undefined {
  if (uses.lastConflict(step) <= group.at) return 'early'
  return group.isHeld ? undefined : 'late'
}

/** The nodes that use a buffer: where the last is of those that stay where they are, and those that may still move. */
interface Users {
  fixed: number
  readonly open: Set<Node>
}

/** Which nodes touch and which write each buffer. */
class Uses {
  private readonly touched = new Map<Buffer, Users>()
  private readonly written = new Map<Buffer, Users>()

  /** Notes a step at a node's place; isOpen: whether the node may move. */
  add({ touches, writes }: Step, node: Node, isOpen: boolean): void {
    // What comes before it and does not go together with it cannot move past it.
    for (const root of writes) hold(this.touched.get(root), node)
    for (const root of touches) hold(this.written.get(root), node)
    const note = (users: Users) => {
      if (isOpen) users.open.add(node)
      else users.fixed = Math.max(users.fixed, node.at)
    }
    for (const root of touches) note(usersOf(this.touched, root))
    for (const root of writes) note(usersOf(this.written, root))
  }

  /** Notes that a node moves no more. */
  close(node: Node): void {
    const note = (users: Users) => {
      users.open.delete(node)
      users.fixed = Math.max(users.fixed, node.at)
    }
    for (const root of node.touches) note(usersOf(this.touched, root))
    for (const root of node.writes) note(usersOf(this.written, root))
  }

  /** Where the last node is that a step has to follow; -1 if there is none. */
  lastConflict({ touches, writes }: Step): number {
    let last = -1
    for (const root of writes) last = Math.max(last, lastOf(this.touched.get(root)))
    for (const root of touches) last = Math.max(last, lastOf(this.written.get(root)))
    return last
  }
}

function usersOf(all: Map<Buffer, Users>, root: Buffer): Users {
  const users = all.get(root) ?? { fixed: -1, open: new Set() }
  all.set(root, users)
  return users
}

function hold(users: Users | undefined, by: Node): void {
  for (const node of users?.open ?? []) if (node.at < by.at) node.isHeld = true
}

function lastOf(users: Users | undefined): number {
  let last = users?.fixed ?? -1
  for (const { at } of users?.open ?? []) last = Math.max(last, at)
  return last
}

/** Whether a candidate can be one more of a group: each operand is the same for all, or another for each. */
function takes({ candidates, touches, elements }: Node, candidate: FusionCandidate): boolean {
  const [first, second] = candidates
  if (elements + largestOf(candidate.roots) > mostElements) return false
  return candidate.roots.every((root, i) => {
    const isShared = second ? second.roots[i] === first.roots[i] : root === first.roots[i]
    if (!isShared) return !touches.has(root)
    const isWhole = candidate.isFlat && root.size === candidate.work.columns
    return root === first.roots[i] && !isWhole && !candidate.step.writes.has(root)
  })
}

const largestOf = (roots: readonly Buffer[]): number => Math.max(...roots.map(({ size }) => paddedSize(size)))

/** Which memory lies in which arena. */
class Arrangement {
  /** The steps that touch each buffer. */
  private readonly users = new Map<Buffer, Step[]>()
  /** Where each member of an arena is among them. */
  private readonly indices = new WeakMap<PackedBuffer, ReadonlyMap<Buffer, number>>()
  /** The variable whose f16 copy a buffer is. */
  private readonly copied: ReadonlyMap<Buffer, Buffer>
  private readonly places: Map<Buffer, PackedPlace>
  /** Variables that the program both reads and assigns: those are kept together for good. */
  private readonly updated: ReadonlySet<Buffer>

  constructor(steps: readonly Step[], halves: ReadonlyMap<Buffer, Buffer>, places: Map<Buffer, PackedPlace>) {
    for (const step of steps) {
      for (const root of step.touches) {
        const known = this.users.get(root)
        if (known) known.push(step)
        else this.users.set(root, [step])
      }
    }
    this.copied = new Map([...halves].map(([root, half]) => [half, root]))
    this.places = places
    const read = new Set(steps.flatMap(readBy))
    this.updated = new Set(
      steps.flatMap(({ writes }) => [...writes].filter(root => root.variable && read.has(root))),
    )
  }

  /** One program for several, if their memory can be brought together. */
  join(candidates: readonly FusionCandidate[]): HorizontalFusion | undefined {
    const [first, second] = candidates
    const slots = first.roots.flatMap((root, slot) => (root === second.roots[slot] ? [] : [slot]))
    const shared = first.roots.filter((root, slot) => root === second.roots[slot])
    const members = this.inOrder(candidates, slots)
    const arenas = new Map<Buffer, PackedBuffer>()
    for (const slot of slots) {
      const buffers = members.map(({ roots }) => roots[slot])
      const arena = this.arenaOf(buffers)
      const isTaken = (arena: PackedBuffer) =>
        [...arenas.values()].includes(arena) || shared.some(root => this.indexIn(arena, root) !== undefined)
      if (!arena || isTaken(arena)) return undefined
      arenas.set(buffers[0], arena)
    }
    // A copy lies in its arena as the variable does in its own.
    for (const { members } of arenas.values()) {
      const variables = members.flatMap(root => this.copied.get(root) ?? [])
      if (variables.length > 0 && ![...arenas.values()].some(other => isSame(other.members, variables)))
        return undefined
    }
    for (const arena of arenas.values()) this.note(arena)
    const ranges = new Map(
      [...arenas].map(([root, { buffer }]) => [root, { buffer, start: this.places.get(root)?.start ?? 0 }]),
    )
    const works = members.map(({ work }) => work)
    return first.isFlat ? asOne(works, ranges) : asBatch(works, ranges)
  }

  /** In the order in which some of their memory lies already. */
  private inOrder(
    candidates: readonly FusionCandidate[],
    slots: readonly number[],
  ): readonly FusionCandidate[] {
    const placed = slots.find(slot => candidates.every(({ roots }) => this.places.has(roots[slot])))
    if (placed === undefined) return candidates
    const start = ({ roots }: FusionCandidate) => this.places.get(roots[placed])?.start ?? 0
    return candidates.toSorted((a, b) => start(a) - start(b))
  }

  /** The arena that these are in, one after the other; a new one where none is in any, and may be. */
  private arenaOf(buffers: readonly Buffer[]): PackedBuffer | undefined {
    const known = this.places.get(buffers[0])?.packed
    if (known) {
      const first = this.indexIn(known, buffers[0]) ?? 0
      return isSame(known.members.slice(first, first + buffers.length), buffers) ? known : undefined
    }
    if (buffers.some(root => this.places.has(root))) return undefined
    const areVariables = buffers[0].variable !== undefined
    if (areVariables ? !buffers.every(root => this.updated.has(root)) : !this.areApart(buffers))
      return undefined
    return packedBufferOf(buffers)
  }

  private indexIn(arena: PackedBuffer, root: Buffer): number | undefined {
    const indices = this.indices.get(arena) ?? new Map(arena.members.map((member, i) => [member, i]))
    this.indices.set(arena, indices)
    return indices.get(root)
  }

  /** Whether no kernel reads one of these and writes another: WebGPU would not have both in one GPUBuffer. */
  private areApart(buffers: readonly Buffer[]): boolean {
    const set = new Set(buffers)
    const users = new Set(buffers.flatMap(root => this.users.get(root) ?? []))
    for (const { touches, writes } of users) {
      const touched = [...touches].filter(root => set.has(root))
      const isWritten = (root: Buffer) => writes.has(root)
      if (touched.length > 1 && !touched.every(isWritten) && touched.some(isWritten)) return false
    }
    return true
  }

  private note(arena: PackedBuffer): void {
    for (const [root, start] of startsOf(arena.members)) this.places.set(root, { packed: arena, start })
  }
}

const isSame = (some: readonly Buffer[], others: readonly Buffer[]): boolean =>
  some.length === others.length && some.every((buffer, i) => buffer === others[i])

/** What a step reads; of other than row programs what they do not write. */
const readBy = ({ work, touches, writes }: Step): Buffer[] =>
  isRowProgram(work)
    ? [...rootsOf({ ...work, stores: [], columnSums: [] })]
    : [...touches].filter(root => !writes.has(root))

/** Where in an arena the first of some programs has an operand. */
interface Range {
  readonly buffer: Buffer
  readonly start: number
}

/** Elementwise programs over neighbouring memory as one over all of it. */
function asOne(works: readonly RowProgram[], ranges: ReadonlyMap<Buffer, Range>): HorizontalFusion {
  const columns = works.reduce((sum, { columns }) => sum + paddedSize(columns), 0)
  return { works, program: { ...placedIn(works[0], ranges), columns } }
}

/** The first of programs of the same shape, for all of them in turn. */
function asBatch(works: readonly RowProgram[], ranges: ReadonlyMap<Buffer, Range>): HorizontalFusion {
  const steps = new Map(
    [...ranges].map(([root, { buffer, start }]) => [buffer, { start, stride: paddedSize(root.size) }]),
  )
  const atStart = new Map([...ranges].map(([root, { buffer }]) => [root, { buffer, start: 0 }]))
  return { works, program: placedIn(works[0], atStart), batch: { count: works.length, steps } }
}

/** The same program on other memory in the place of some of its buffers. */
function placedIn(work: RowProgram, ranges: ReadonlyMap<Buffer, Range>): RowProgram {
  const placed = (access: Access): Access => {
    const range = access.buffer && ranges.get(access.buffer.allocation)
    const moved = range ? { buffer: range.buffer, offset: access.offset + range.start } : {}
    const { gather } = access
    const found = gather ? { gather: { ...gather, indices: placed(gather.indices) } } : {}
    return { ...access, ...moved, ...found }
  }
  return {
    ...work,
    values: work.values.map(value =>
      value.operation.kind === 'load'
        ? { ...value, operation: { ...value.operation, access: placed(value.operation.access) } }
        : value,
    ),
    stores: work.stores.map(store => ({ ...store, access: placed(store.access) })),
    columnSums: work.columnSums.map(sum => ({
      ...sum,
      buffer: ranges.get(sum.buffer.allocation)?.buffer ?? sum.buffer,
    })),
  }
}
