import { type Storage, currentBackend } from './backend.ts'
import { place } from './compile.ts'
import { NDArray } from './ndarray.ts'
import { ShapeError, sameShape, showShape } from './shape.ts'
import { Tensor } from './tensor.ts'

/**
 * A tensor that lives in the backend between calls, such as a parameter. In a traced function it
 * stands for its value before the call; assign() gives it the one it has afterwards.
 */
export class Variable extends Tensor {
  /** Values, or a graph that computes them when they are first needed. */
  readonly initial: NDArray | Tensor
  /** Its memory, once it has been used. */
  storage: Storage | undefined

  constructor(initial: NDArray | Tensor) {
    super({ kind: 'variable' }, [], initial.shape, initial.dtype)
    this.initial = initial
  }

  /** Its present value. */
  async read(): Promise<NDArray> {
    const [storage] = await place([this])
    return new NDArray(await currentBackend().read(storage, this.size, this.dtype), this.shape)
  }

  /** Replaces its value. Throws ShapeError when shape or dtype differ. */
  async write(value: NDArray): Promise<void> {
    if (!sameShape(value.shape, this.shape) || value.dtype !== this.dtype) {
      throw new ShapeError(`write: a variable ${this.dtype} ${showShape(this.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`)
    }
    const [storage] = await place([this])
    await currentBackend().write(storage, value.data)
  }
}

/** A variable that starts with these values: an array, or a graph such as randomNormal(...). */
export const variable = (initial: NDArray | Tensor): Variable => new Variable(initial)
