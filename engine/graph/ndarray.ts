/** NDArray: the arrays that programs take and return. */
import { type Shape, ShapeError, checkShape, showShape, showValue, sizeOf } from './shape.ts'

/** The data of an array: float32 and int32 are used as they are, others are converted to one of them. */
export type Numbers =
  | readonly number[]
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array

/** Numbers in JavaScript's memory, row-major, with a shape. */
export class NDArray {
  readonly data: Float32Array | Int32Array
  readonly shape: Shape

  /**
   * A Float32Array is float32 and an Int32Array is int32; neither is copied. Plain numbers and Float64Arrays are rounded
   * to float32, and smaller whole numbers become int32.
   *
   * Throws ShapeError when the numbers do not fill the shape, when the data are not numbers, and when a Uint32Array has a
   * number beyond int32.
   */
  constructor(data: Numbers, shape?: Shape) {
    this.data = toElements(data)
    this.shape = shape ?? [this.data.length]
    checkShape('array', this.shape)
    if (this.data.length !== sizeOf(this.shape))
      throw new ShapeError(`array: ${this.data.length} numbers do not fill shape ${showShape(this.shape)}`)
  }

  get dtype(): 'float32' | 'int32' {
    return this.data instanceof Float32Array ? 'float32' : 'int32'
  }

  /** The number of elements. */
  get size(): number {
    return this.data.length
  }

  /** The number in an array of one element. Throws ShapeError if there are more or none. */
  item(): number {
    if (this.data.length !== 1) throw new ShapeError(`item: shape ${showShape(this.shape)} is not a scalar`)
    return this.data[0]
  }
}

/** The dtype depends on the array's type, never on its values: indices have to be int32 on purpose. */
function toElements(data: Numbers): Float32Array | Int32Array {
  if (data instanceof Float32Array || data instanceof Int32Array) return data
  if (data instanceof Float64Array) return Float32Array.from(data)
  if (Array.isArray(data)) {
    const wrong = data.findIndex(value => typeof value !== 'number')
    if (wrong >= 0)
      throw new ShapeError(
        `array: element ${wrong} is not a number but ${showValue(data[wrong])}; pass one flat list of numbers, and a shape`,
      )
    return Float32Array.from(data)
  }
  if (data instanceof Uint32Array) {
    const large = data.find(value => value >= 2 ** 31)
    if (large !== undefined) throw new ShapeError(`array: ${large} of a Uint32Array is beyond int32`)
  }
  const isSmall = [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Uint32Array].some(
    type => data instanceof type,
  )
  if (!isSmall)
    throw new ShapeError(
      `array: takes numbers, a Float32Array, Float64Array or Int32Array, or smaller whole numbers, not ${showValue(data)}`,
    )
  return Int32Array.from(data)
}

/** The numbers of scalars, under the same names. */
export function items<Name extends string>(scalars: Readonly<Record<Name, NDArray>>): Record<Name, number> {
  const numbers = Object.entries<NDArray>(scalars).map(([name, scalar]) => [name, scalar.item()])
  // The names are those of the scalars.
  return Object.fromEntries(numbers) as Record<Name, number>
}

/** Makes an NDArray; see its constructor. Without a shape it has one axis. */
export const array = (data: Numbers, shape?: Shape): NDArray => new NDArray(data, shape)
