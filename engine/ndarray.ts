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

  /** How many elements it has. */
  get size(): number {
    return this.data.length
  }

  /** The one number of a scalar. */
  item(): number {
    if (this.data.length !== 1) throw new ShapeError(`item: shape ${showShape(this.shape)} is no scalar`)
    return this.data[0]
  }
}

/** The numbers of scalars, by their names. */
export function items<Name extends string>(scalars: Readonly<Record<Name, NDArray>>): Record<Name, number> {
  const numbers = Object.entries<NDArray>(scalars).map(([name, scalar]) => [name, scalar.item()])
  // The names are those of the scalars.
  return Object.fromEntries(numbers) as Record<Name, number>
}

/** An NDArray of these numbers; without a shape, one axis of them. */
export const array = (data: Float32Array | Int32Array, shape?: Shape): NDArray => new NDArray(data, shape)
