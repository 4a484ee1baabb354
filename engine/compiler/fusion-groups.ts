/** Groups row operations that may share a kernel. */
import type { Pausing } from './pauses.ts'
import { sizeOf } from '../graph/shape.ts'
import type { Tensor } from '../graph/tensor.ts'

/** The rows and columns that a fused kernel loops over. */
export interface IterationSpace {
  readonly rows: number
  readonly columns: number
}

/**
 * Row operations that one kernel may compute. They are connected and run over the same rows and columns, and no path
 * from one to another leaves the group.
 */
export interface FusionGroup extends IterationSpace {
  /** How many other kernels have to run before it, at least. */
  readonly depth: number
  /** A group of more than mostMembers is divided. whole is the same for all of its parts; part is the index of one. */
  readonly whole: Tensor
  readonly part: number
  readonly members: Tensor[]
}

/** The most nodes that one kernel computes: the time to compile a kernel grows faster than its length. */
export const mostMembers = 256

const lastExtent = ({ shape }: Tensor): number => (shape.length === 0 ? 1 : shape[shape.length - 1])

/** Whether a node computes each row, or each element, from the same row of its operands. */
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

/** Whether a node only rearranges its input, so that it can be a view of it. */
export function isMovement({ operation: { kind } }: Tensor): boolean {
  return kind === 'reshape' || kind === 'transpose' || kind === 'slice' || kind === 'broadcast'
}

/** The tensor that a chain of movements starts from. */
export function baseOf(tensor: Tensor): Tensor {
  let base = tensor
  while (isMovement(base)) [base] = base.inputs
  return base
}

/** Whether an operand is a reshape that keeps the last axis, and so the rows. */
const keepsRows = (operand: Tensor): boolean =>
  operand.operation.kind === 'reshape' && lastExtent(operand.inputs[0]) === lastExtent(operand)

/** The tensor that an operand has the rows of, past reshapes that keep them. */
function sameRows(operand: Tensor): Tensor {
  let base = operand
  while (keepsRows(base)) [base] = base.inputs
  return base
}

/** Whether an operand broadcasts one value of each row along the row. */
function repeatsRows({ operation, inputs, shape }: Tensor): boolean {
  if (operation.kind !== 'broadcast') return false
  const [input] = inputs
  return lastExtent(input) === 1 && input.size === sizeOf(shape.slice(0, -1))
}

/** The row operation whose rows an operand has, past movements that keep them; undefined if there is none. */
export function rowSource(operand: Tensor): Tensor | undefined {
  let source = operand
  while (!isRowOperation(source)) {
    if (!keepsRows(source) && !repeatsRows(source)) return undefined
    ;[source] = source.inputs
  }
  return source
}

/** The fusion groups of a graph's row operations. */
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
      // Path compression: from here on each of them is one step from the root.
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
        // Operations that read the same elements join, so that these are loaded once.
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
        // Inputs come first, so a part depends on earlier parts only.
        const part = group ? group.part + 1 : 0
        group = { ...this.iterationSpace(tensor), depth: this.depth(tensor), whole: root, part, members: [] }
        byRoot.set(root, group)
      }
      group.members.push(tensor)
      this.groups.set(tensor, group)
    }
  }

  /** All groups, from the last to run to the first. */
  get descending(): FusionGroup[] {
    return [...new Set(this.groups.values())].sort((a, b) => b.depth - a.depth || b.part - a.part)
  }

  groupOf(tensor: Tensor): FusionGroup | undefined {
    return this.groups.get(tensor)
  }

  /** Whether a kernel that computes rows of the reader can compute the source's values for them, too. */
  fusable(source: Tensor, reader: Tensor): boolean {
    if (source.operation.kind === 'columnSum' || source.microbatch !== reader.microbatch) return false
    const [a, b] = [this.iterationSpace(source), this.iterationSpace(reader)]
    return a.rows === b.rows && a.columns === b.columns
  }

  private iterationSpace(tensor: Tensor): IterationSpace {
    const space = this.iterationSpaces.get(tensor)
    if (!space) throw new Error(`node ${tensor.id} has no iteration space`)
    return space
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
      // One value for each row: it belongs to the row operations that it is computed from.
      for (const input of inputs) {
        const source = rowSource(input)
        if (source && source.operation.kind !== 'columnSum' && this.iterationSpace(source).rows === rows)
          return this.iterationSpace(source)
      }
    }
    return { rows, columns }
  }

  /** How many kernels have to run before, at least. An edge within a kernel, or of a movement, adds none. */
  private findDepth(tensor: Tensor): number {
    let depth = 0
    for (const input of tensor.inputs) {
      const source =
        isRowOperation(tensor) && tensor.operation.kind !== 'gather' ? rowSource(input) : undefined
      const free = isMovement(tensor) || (source && this.fusable(source, tensor))
      depth = Math.max(depth, source && free ? this.depth(source) : this.depth(input) + (free ? 0 : 1))
    }
    return depth
  }
}
