import { type Group, Groups, baseOf, isRowOperation, rowSource } from './groups.ts'
import { type Tensor, constantValue } from './tensor.ts'

/** A value of a fused kernel: loaded from a stored tensor, or computed by a node. */
export interface FusedValue {
  readonly tensor: Tensor
  readonly inputs: readonly number[]
  readonly kind: 'load' | 'constant' | 'compute'
}

/** One kernel to be: what a group computes, and which values it stores. */
export interface FusedGroup {
  readonly group: Group
  readonly values: readonly FusedValue[]
  readonly stores: readonly { readonly tensor: Tensor; readonly value: number }[]
  readonly columnSums: readonly { readonly tensor: Tensor; readonly value: number }[]
}

const isSingle = ({ shape }: Tensor): boolean => shape.length === 0 || shape[shape.length - 1] === 1

/** How many full-size operands an unstored value may be computed anew from, rather than be stored. */
const recomputeOperands = 1

/**
 * Decides which row operations are stored and which are computed where they are needed, and lists
 * each group's kernel. nodes: the whole graph, inputs first. stored: the tensors that must be in
 * memory; those that groups need of each other are added.
 */
export function fuse(nodes: readonly Tensor[], stored: Set<Tensor>): FusedGroup[] {
  const groups = new Groups(nodes)
  const fused: FusedGroup[] = []
  // Last groups first: what they need decides what earlier ones store.
  for (const group of groups.descending) {
    const outputs = group.members.filter(tensor => stored.has(tensor))
    if (outputs.length > 0) fused.push(new Fuser(groups, group, stored).fuse(outputs))
  }
  return fused
}

class Fuser {
  private readonly groups: Groups
  private readonly group: Group
  private readonly stored: Set<Tensor>
  private readonly values: FusedValue[] = []
  private readonly numbers = new Map<string, number>()

  constructor(groups: Groups, group: Group, stored: Set<Tensor>) {
    this.groups = groups
    this.group = group
    this.stored = stored
  }

  fuse(outputs: readonly Tensor[]): FusedGroup {
    const isSum = (tensor: Tensor) => tensor.operation.kind === 'columnSum'
    const stores = outputs
      .filter(tensor => !isSum(tensor))
      .map(tensor => ({ tensor, value: this.compute(tensor) }))
    const columnSums = outputs
      .filter(isSum)
      .map(tensor => ({ tensor, value: this.operand(tensor, tensor.inputs[0]) }))
    return { group: this.group, values: this.values, stores, columnSums }
  }

  private compute(tensor: Tensor): number {
    return this.once(`${tensor.id}`, () => {
      // A gather is a load from rows that another operand names.
      const inputs =
        tensor.operation.kind === 'gather'
          ? this.gatherOperands(tensor)
          : tensor.inputs.map(input => this.operand(tensor, input))
      return { tensor, inputs, kind: 'compute' }
    })
  }

  private gatherOperands(tensor: Tensor): number[] {
    for (const input of tensor.inputs) this.store(input)
    return []
  }

  private operand(reader: Tensor, input: Tensor): number {
    if (constantValue(input) !== undefined)
      return this.once(`c${input.id}`, () => ({ tensor: input, inputs: [], kind: 'constant' }))
    const source = rowSource(input)
    if (source && this.groups.fusable(source, reader)) {
      if (this.groups.groupOf(source) === this.group) return this.compute(source)
      if (!this.stored.has(source) && !this.worthStoring(source)) return this.compute(source)
      this.stored.add(source)
    } else {
      this.store(input)
    }
    return this.once(`l${input.id}`, () => ({ tensor: input, inputs: [], kind: 'load' }))
  }

  private store(input: Tensor): void {
    const base = baseOf(input)
    if (isRowOperation(base)) this.stored.add(base)
  }

  /** One value a row is stored where it stands for a whole row's work, not where it comes from others that are. */
  private worthStoring(source: Tensor): boolean {
    if (isSingle(source)) return this.group.columns === 1 || !this.isOfSingles(source)
    return this.operands(source, new Set()).size > recomputeOperands
  }

  private isOfSingles(source: Tensor): boolean {
    const { operation, inputs } = source
    if (operation.kind !== 'unary' && operation.kind !== 'binary' && operation.kind !== 'where') return false
    return inputs.every(input => {
      if (constantValue(input) !== undefined) return true
      const inner = rowSource(input)
      return inner !== undefined && isSingle(inner) && this.groups.fusable(inner, source)
    })
  }

  private operands(source: Tensor, found: Set<Tensor>): Set<Tensor> {
    if (source.operation.kind === 'gather') return found.add(source)
    for (const input of source.inputs) {
      if (found.size > recomputeOperands) break
      const inner = rowSource(input)
      if (inner && this.groups.fusable(inner, source) && !this.stored.has(inner)) {
        // A reduction's result will be stored, and is small.
        if (inner.shape[inner.shape.length - 1] !== 1) this.operands(inner, found)
      } else if (baseOf(input).size * 2 > source.size) {
        found.add(inner ?? input)
      }
    }
    return found
  }

  private once(key: string, make: () => FusedValue): number {
    const known = this.numbers.get(key)
    if (known !== undefined) return known
    const value = make()
    const number = this.values.length
    this.values.push(value)
    this.numbers.set(key, number)
    return number
  }
}
