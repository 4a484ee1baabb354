/** Variables: tensors that keep their values between calls. */
import { currentBackend, inTurn } from './backend.ts'
import { NDArray } from '../graph/ndarray.ts'
import { ShapeError, sameShape, showShape, showValue } from '../graph/shape.ts'
import { type Initial, isStored, setInitial, storagesOf } from './storage.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * A tensor that the backend stores between calls, such as a parameter. In a traced function it stands for its value
 * before the call; assign() sets the value that it has after the call.
 */
export class Variable extends Tensor {
  /** Throws ShapeError when the initial values are neither an NDArray nor a Tensor, or are bool. */
  constructor(initial: Initial) {
    if (!(initial instanceof NDArray || initial instanceof Tensor))
      throw new ShapeError(
        `variable: starts from an array or a tensor, not ${showValue(initial)}; make one with array() or full()`,
      )
    if (initial.dtype === 'bool')
      throw new ShapeError('variable: bool cannot be stored; make it a number with toFloat() or toInt()')
    super({ kind: 'variable' }, [], initial.shape, initial.dtype)
    setInitial(this, initial)
  }

  /** Whether a call has used it, read() and write() included: only then does the backend hold values of it. */
  get isStored(): boolean {
    return isStored(this)
  }

  /** Its value after all calls made so far. */
  async read(): Promise<NDArray> {
    const backend = currentBackend()
    const data = await inTurn(storagesOf([this]), ([storage]) => backend.read(storage, this.size, this.dtype))
    return new NDArray(data, this.shape)
  }

  /** Replaces its value for all later calls. Throws ShapeError when shape or dtype differ. */
  async write(value: NDArray): Promise<void> {
    if (!(value instanceof NDArray)) throw new ShapeError(`write: takes an NDArray, not ${showValue(value)}`)
    if (!sameShape(value.shape, this.shape) || value.dtype !== this.dtype) {
      throw new ShapeError(
        `write: a variable ${this.dtype} ${showShape(this.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`,
      )
    }
    const [backend, data] = [currentBackend(), value.data.slice()]
    await inTurn(storagesOf([this]), ([storage]) => backend.write(storage, data))
  }
}

/** A variable with these initial values: an array, or a graph such as randomNormal(...). */
export const variable = (initial: Initial): Variable => new Variable(initial)
