import { type Shape, ShapeError, showShape, sizeOf } from './shape.ts'

/** Numbers on the host, row-major, with a shape: what programs take and return. */
export class NDArray {
  readonly data: Float32Array | Int32Array
  readonly shape: Shape

  /** Throws ShapeError when there are not as many numbers as the shape has elements. */
  constructor(data: Float32Array | Int32Array, shape: Shape = [data.length]) {
    if (data.length !== sizeOf(shape)) {
      throw new ShapeError(`array: ${data.length} numbers do not fill shape ${showShape(shape)}`)
    }
    this.data = data
    this.shape = shape
  }

  get dtype(): 'float32' | 'int32' {
    return this.data instanceof Float32Array ? 'float32' : 'int32'
  }

  /** The one number of a scalar. */
  item(): number {
    if (this.data.length !== 1) throw new ShapeError(`item: shape ${showShape(this.shape)} is no scalar`)
    return this.data[0]
  }
}

/** An NDArray of these numbers; without a shape, one axis of them. */
export const array = (data: Float32Array | Int32Array, shape?: Shape): NDArray => new NDArray(data, shape)
