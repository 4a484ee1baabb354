import type { Pausing } from './pauses.ts'
import { sizeOf } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'

/** Rows and columns that elementwise operations and last-axis reductions run over together. */
export interface IterationSpace {
  readonly rows: number
  readonly columns: number
}

/**
 * Row operations that one kernel may compute: they are connected, run over the same rows, and no
 * path from one to another leaves the group.
 */
export interface FusionGroup extends IterationSpace {
  readonly depth: number
  /** Groups of more than mostMembers are divided: equal for all parts, and the number of the part. */
  readonly whole: Tensor
  readonly part: number
  readonly members: Tensor[]
}

/** Nodes that one kernel computes, at most: compilers take more than linear time for huge functions. */
export const mostMembers = 256

const lastExtent = ({ shape }: Tensor): number => (shape.length === 0 ? 1 : shape[shape.length - 1])

/** Whether each element or row of the result is computed from the same row of the operands. */
export function isRowOperation({ operation: { kind } }: Tensor): boolean {
  return (
    kind === 'unary' ||
    kind === 'binary' ||
    kind === 'where' ||
    kind === 'reduce' ||
    kind === 'gather' ||
    kind === 'columnSum'
  )
}

/** Whether the node only says where the elements of its input are. */
export function isMovement({ operation: { kind } }: Tensor): boolean {
  return kind === 'reshape' || kind === 'transpose' || kind === 'slice' || kind === 'broadcast'
}

/** What a chain of movements starts from. */
export function baseOf(tensor: Tensor): Tensor {
  let base = tensor
  while (isMovement(base)) [base] = base.inputs
  return base
}

/** Whether an operand is a reshape that has the same rows. */
const keepsRows = (operand: Tensor): boolean =>
  operand.operation.kind === 'reshape' && lastExtent(operand.inputs[0]) === lastExtent(operand)

/** What an operand is the same rows of, past reshapes that keep these. */
function sameRows(operand: Tensor): Tensor {
  let base = operand
  while (keepsRows(base)) [base] = base.inputs
  return base
}

/** Whether an operand repeats one value of each row along the row. */
function repeatsRows({ operation, inputs, shape }: Tensor): boolean {
  if (operation.kind !== 'broadcast') return false
  const [input] = inputs
  return lastExtent(input) === 1 && input.size === sizeOf(shape.slice(0, -1))
}

/** The row operation of which an operand is the same rows, past movements that keep them in place. */
export function rowSource(operand: Tensor): Tensor | undefined {
  let source = operand
  while (!isRowOperation(source)) {
    if (!keepsRows(source) && !repeatsRows(source)) return undefined
    ;[source] = source.inputs
  }
  return source
}

/** The row operations of a graph in groups, by which group each is in. */
export class FusionGroups {
  private readonly depths = new Map<Tensor, number>()
  private readonly iterationSpaces = new Map<Tensor, IterationSpace>()
  private readonly groups = new Map<Tensor, FusionGroup>()

  /** nodes: every node of the graph, inputs first. */
  static *of(nodes: readonly Tensor[]): Pausing<FusionGroups> {
    const groups = new FusionGroups()
    yield* groups.find(nodes)
    return groups
  }

  private *find(nodes: readonly Tensor[]): Pausing<void> {
    const parents = new Map<Tensor, Tensor>()
    const find = (tensor: Tensor): Tensor => {
      let root = tensor
      for (let parent = parents.get(root); parent; parent = parents.get(root)) root = parent
      // What was passed is one step from the root from here on.
      for (let at = tensor, next = parents.get(at); next && next !== root; next = parents.get(at)) {
        parents.set(at, root)
        at = next
      }
      return root
    }
    const join = (a: Tensor, b: Tensor) => {
      const [x, y] = [find(a), find(b)]
      if (x !== y) parents.set(x, y)
    }
    const readers = new Map<string, Tensor>()
    for (const tensor of nodes) {
      yield
      if (isRowOperation(tensor)) this.iterationSpaces.set(tensor, this.findIterationSpace(tensor))
      this.depths.set(tensor, this.findDepth(tensor))
      if (!isRowOperation(tensor)) continue
      for (const input of tensor.inputs) {
        const source = tensor.operation.kind === 'gather' ? undefined : rowSource(input)
        if (source && this.fusable(source, tensor) && this.depth(source) === this.depth(tensor))
          join(source, tensor)
        // Two that read the same elements had better do so once.
        if (source && this.fusable(source, tensor)) continue
        const { rows, columns } = this.iterationSpace(tensor)
        const base = baseOf(input)
        if (
          base.operation.kind === 'iota' ||
          base.operation.kind === 'constant' ||
          Math.min(base.size, input.size) < rows * columns
        )
          continue
        const key = `${tensor.microbatch}|${sameRows(input).id}|${this.depth(tensor)}|${rows}|${columns}`
        const reader = readers.get(key)
        if (reader) join(reader, tensor)
        else readers.set(key, tensor)
      }
    }
    const byRoot = new Map<Tensor, FusionGroup>()
    for (const tensor of nodes) {
      if (!isRowOperation(tensor)) continue
      const root = find(tensor)
      let group = byRoot.get(root)
      if (!group || group.members.length === mostMembers) {
        // Inputs come first, so a part depends on none that comes after it.
        const part = group ? group.part + 1 : 0
        group = { ...this.iterationSpace(tensor), depth: this.depth(tensor), whole: root, part, members: [] }
        byRoot.set(root, group)
      }
      group.members.push(tensor)
      this.groups.set(tensor, group)
    }
  }

  /** All groups, the ones that others depend on last. */
  get descending(): FusionGroup[] {
    return [...new Set(this.groups.values())].sort((a, b) => b.depth - a.depth || b.part - a.part)
  }

  groupOf(tensor: Tensor): FusionGroup | undefined {
    return this.groups.get(tensor)
  }

  /** Whether one row operation's value is at hand where the same rows of another are computed. */
  fusable(source: Tensor, reader: Tensor): boolean {
    if (source.operation.kind === 'columnSum' || source.microbatch !== reader.microbatch) return false
    const [a, b] = [this.iterationSpace(source), this.iterationSpace(reader)]
    return a.rows === b.rows && a.columns === b.columns
  }

  private iterationSpace(tensor: Tensor): IterationSpace {
    const domain = this.iterationSpaces.get(tensor)
    if (!domain) throw new Error(`node ${tensor.id} has no domain`)
    return domain
  }

  private depth(tensor: Tensor): number {
    return this.depths.get(tensor) ?? 0
  }

  private findIterationSpace(tensor: Tensor): IterationSpace {
    const { operation, inputs } = tensor
    if (operation.kind === 'reduce' || operation.kind === 'columnSum') {
      const source = rowSource(inputs[0])
      const columns = lastExtent(inputs[0])
      if (columns === 1 && source) return this.iterationSpace(source)
      return { rows: inputs[0].size / columns, columns }
    }
    const columns = lastExtent(tensor)
    const rows = tensor.size / columns
    if (columns === 1 && operation.kind !== 'gather') {
      // One value a row: at home with the row operations that it comes from.
      for (const input of inputs) {
        const source = rowSource(input)
        if (source && source.operation.kind !== 'columnSum' && this.iterationSpace(source).rows === rows)
          return this.iterationSpace(source)
      }
    }
    return { rows, columns }
  }

  /** How many kernels at least must have run before: edges between fusable row operations are free. */
  private findDepth(tensor: Tensor): number {
    let level = 0
    for (const input of tensor.inputs) {
      const source =
        isRowOperation(tensor) && tensor.operation.kind !== 'gather' ? rowSource(input) : undefined
      const free = isMovement(tensor) || (source && this.fusable(source, tensor))
      level = Math.max(level, source && free ? this.depth(source) : this.depth(input) + (free ? 0 : 1))
    }
    return level
  }
}
