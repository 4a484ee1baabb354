/** What lowering hands to the scheduler: instructions that are not in order yet, and how they depend on each other. */
import type { Buffer, TracedOperation, View, Work } from './program.ts'
import type { RowPartition } from './row-blocks.ts'
import type { Tensor } from '../graph/tensor.ts'

/** A tensor that is in memory, or a buffer that belongs to no tensor, such as that of a copy. */
export type Value = Tensor | Buffer

/** A node that stands for a variable. */
export type VariableNode = NonNullable<Buffer['variable']>

/** An instruction that has no place in the program's order yet. */
export interface LoweredInstruction {
  readonly work: Work
  readonly reads: readonly Buffer[]
  readonly writes: readonly Buffer[]
  readonly partition: RowPartition | undefined
  /** The id of the graph's node that it computes. Where nothing else decides, earlier nodes run first. */
  readonly order: number
  /** The latest microbatch of the tensors that it makes. */
  readonly microbatch: number
  /** What must have been made before it runs. */
  readonly needs: readonly Value[]
  readonly makes: readonly Value[]
  /** The operations of the graph that it computes, if origins are recorded. */
  readonly operations?: readonly TracedOperation[] | undefined
}

/** A variable's value after the run. */
export interface Assignment {
  /** The variable's own memory. */
  readonly target: Buffer
  readonly tensor: Tensor
  /** The memory of the tensor, if its instruction might write to the variable instead. */
  readonly computed: Buffer | undefined
  /** Copies the tensor to the variable; not needed if its instruction writes there. */
  readonly copy: LoweredInstruction
}

/** A graph as instructions over buffers. */
export interface LoweredGraph {
  /** Includes the copies of all assignments. */
  readonly instructions: readonly LoweredInstruction[]
  /** The buffers of the graph's inputs. */
  readonly inputs: readonly Buffer[]
  /** Where its results are, contiguous. */
  readonly outputs: readonly View[]
  readonly assignments: readonly Assignment[]
  /** The variables that it reads or assigns. */
  readonly variables: ReadonlyMap<VariableNode, Buffer>
}
