import { type Backend, type Storage, currentBackend, inTurn } from './backend.ts'
import { placeVariables } from './load.ts'
import { NDArray } from '../graph/ndarray.ts'
import { ShapeError, sameShape, showShape, showValue } from '../graph/shape.ts'
import { Tensor } from '../graph/tensor.ts'

/**
 * A tensor that lives in the backend between calls, such as a parameter. In a traced function it
 * stands for its value before the call; assign() gives it the one it has afterwards.
 */
export class Variable extends Tensor {
  /** Values, or a graph that computes them when they are first needed. */
  readonly initial: NDArray | Tensor
  /** Its memory, from its first use on; there once it holds the initial values. */
  home: { readonly backend: Backend; readonly storage: Promise<Storage> } | undefined

  /** Throws ShapeError when the initial values are neither an NDArray nor a Tensor, or bool. */
  constructor(initial: NDArray | Tensor) {
    if (!(initial instanceof NDArray || initial instanceof Tensor))
      throw new ShapeError(
        `variable: starts from an array or a tensor, not ${showValue(initial)}; make one with array() or full()`,
      )
    if (initial.dtype === 'bool')
      throw new ShapeError('variable: bool cannot be stored; make it a number with toFloat() or toInt()')
    super({ kind: 'variable' }, [], initial.shape, initial.dtype)
    this.initial = initial
  }

  /** Its value after all calls so far. */
  async read(): Promise<NDArray> {
    const backend = currentBackend()
    const data = await inTurn(placeVariables([this]), ([storage]) =>
      backend.read(storage, this.size, this.dtype),
    )
    return new NDArray(data, this.shape)
  }

  /** Replaces its value, for all calls from here on. Throws ShapeError when shape or dtype differ. */
  async write(value: NDArray): Promise<void> {
    if (!(value instanceof NDArray)) throw new ShapeError(`write: takes an NDArray, not ${showValue(value)}`)
    if (!sameShape(value.shape, this.shape) || value.dtype !== this.dtype) {
      throw new ShapeError(
        `write: a variable ${this.dtype} ${showShape(this.shape)} cannot take ${value.dtype} ${showShape(value.shape)}`,
      )
    }
    const [backend, data] = [currentBackend(), value.data.slice()]
    await inTurn(placeVariables([this]), ([storage]) => backend.write(storage, data))
  }
}

/** A variable that starts with these values: an array, or a graph such as randomNormal(...). */
export const variable = (initial: NDArray | Tensor): Variable => new Variable(initial)
