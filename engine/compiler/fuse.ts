/** Decides what each fused kernel computes, loads and stores. */
import {
  type FusionGroup,
  FusionGroups,
  baseOf,
  isRowOperation,
  mostMembers,
  rowSource,
} from './fusion-groups.ts'
import type { Pausing } from './pauses.ts'
import { type Tensor, constantValue } from '../graph/tensor.ts'

/** A value of a fused kernel: loaded from a stored tensor, or computed as a node says. */
export interface FusedValue {
  readonly tensor: Tensor
  readonly inputs: readonly number[]
  readonly kind: 'load' | 'constant' | 'compute'
}

/** A fused kernel: the values that it computes, and those that it stores. */
export interface FusedGroup {
  readonly group: FusionGroup
  readonly values: readonly FusedValue[]
  readonly stores: readonly { readonly tensor: Tensor; readonly value: number }[]
  readonly columnSums: readonly { readonly tensor: Tensor; readonly value: number }[]
}

const isSingle = ({ shape }: Tensor): boolean => shape.length === 0 || shape[shape.length - 1] === 1

/** A value that is computed from more full-size operands than this is stored rather than recomputed. */
const recomputeOperands = 1

/**
 * Decides which row operations are stored and which are recomputed where they are needed, and returns the kernel of
 * each group. nodes: the whole graph, inputs first. stored: the tensors that must be in memory; those that one group
 * needs of another are added to it.
 */
export function* fuse(nodes: readonly Tensor[], stored: Set<Tensor>): Pausing<FusedGroup[]> {
  const groups = yield* FusionGroups.of(nodes)
  const fused: FusedGroup[] = []
  // Last groups first: what they load decides what earlier ones store.
  for (const group of groups.descending) {
    yield
    const outputs = group.members.filter(tensor => stored.has(tensor))
    if (outputs.length > 0) fused.push(new Fuser(groups, group, stored).fuse(outputs))
  }
  return fused
}

class Fuser {
  private readonly groups: FusionGroups
  private readonly group: FusionGroup
  private readonly stored: Set<Tensor>
  private readonly values: FusedValue[] = []
  private readonly numbers = new Map<string, number>()

  constructor(groups: FusionGroups, group: FusionGroup, stored: Set<Tensor>) {
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
      .map(tensor => ({ tensor, value: this.numberOf(tensor, tensor.inputs[0]) }))
    return { group: this.group, values: this.values, stores, columnSums }
  }

  private numberOf(reader: Tensor, input: Tensor): number {
    const operand = this.operand(reader, input)
    return typeof operand === 'number' ? operand : this.compute(operand)
  }

  /** The index of a node's value. Adds it, after the values that it is computed from. */
  private compute(tensor: Tensor): number {
    const known = this.numbers.get(`${tensor.id}`)
    if (known !== undefined) return known
    const pending: { tensor: Tensor; inputs: number[] }[] = [{ tensor, inputs: [] }]
    for (;;) {
      const top = pending[pending.length - 1]
      // A gather loads, from rows that its indices name.
      const isGather = top.tensor.operation.kind === 'gather'
      if (isGather) for (const input of top.tensor.inputs) this.store(input)
      if (!isGather && top.inputs.length < top.tensor.inputs.length) {
        const operand = this.operand(top.tensor, top.tensor.inputs[top.inputs.length])
        if (typeof operand === 'number') top.inputs.push(operand)
        else pending.push({ tensor: operand, inputs: [] })
        continue
      }
      const number = this.add(`${top.tensor.id}`, { ...top, kind: 'compute' })
      pending.pop()
      const reader = pending.at(-1)
      if (!reader) return number
      reader.inputs.push(number)
    }
  }

  /** The index of an operand's value, or the node that has to be computed first. */
  private operand(reader: Tensor, input: Tensor): number | Tensor {
    if (constantValue(input) !== undefined) return this.once(`c${input.id}`, input, 'constant')
    const source = rowSource(input)
    if (source && this.groups.fusable(source, reader)) {
      if (this.isComputed(source)) return this.numbers.get(`${source.id}`) ?? source
      this.stored.add(source)
    } else {
      this.store(input)
    }
    return this.once(`l${input.id}`, input, 'load')
  }

  /** Whether this kernel computes a value, rather than loads it. */
  private isComputed(source: Tensor): boolean {
    const group = this.groups.groupOf(source)
    if (group === this.group) return true
    return group?.whole !== this.group.whole && !this.stored.has(source) && !this.worthStoring(source)
  }

  private store(input: Tensor): void {
    const base = baseOf(input)
    if (isRowOperation(base)) this.stored.add(base)
  }

  /**
   * Whether a value of an earlier group is better stored than recomputed. One value for each row is, unless it is
   * computed from others of that kind.
   */
  private worthStoring(source: Tensor): boolean {
    if (isSingle(source)) return this.group.columns === 1 || !this.isFromSingles(source)
    return this.isExpensive(source)
  }

  private isFromSingles(source: Tensor): boolean {
    const { operation, inputs } = source
    if (operation.kind !== 'unary' && operation.kind !== 'binary' && operation.kind !== 'where') return false
    return inputs.every(input => {
      if (constantValue(input) !== undefined) return true
      const inner = rowSource(input)
      return inner !== undefined && isSingle(inner) && this.groups.fusable(inner, source)
    })
  }

  /** Whether a value takes too many full-size operands, or too many operations, to recompute. */
  private isExpensive(source: Tensor): boolean {
    const operands = new Set<Tensor>()
    const computed = new Set([source])
    // The loop appends to the set.
    for (const tensor of computed) {
      if (tensor.operation.kind === 'gather') operands.add(tensor)
      else {
        for (const input of tensor.inputs) {
          const inner = rowSource(input)
          if (inner && this.groups.fusable(inner, tensor) && !this.stored.has(inner)) {
            // A reduction's result will be stored, and is small.
            if (inner.shape.at(-1) !== 1) computed.add(inner)
          } else if (baseOf(input).size * 2 > tensor.size) {
            operands.add(inner ?? input)
          }
        }
      }
      if (operands.size > recomputeOperands || computed.size > mostMembers) return true
    }
    return false
  }

  /** The index of a value that has no inputs. */
  private once(key: string, tensor: Tensor, kind: 'load' | 'constant'): number {
    return this.numbers.get(key) ?? this.add(key, { tensor, inputs: [], kind })
  }

  private add(key: string, value: FusedValue): number {
    const number = this.values.length
    this.values.push(value)
    this.numbers.set(key, number)
    return number
  }
}
