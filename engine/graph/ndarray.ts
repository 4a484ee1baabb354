import { type Shape, ShapeError, checkShape, showShape, showValue, sizeOf } from './shape.ts'

/** What an array is made of: float32 and int32 as they are, and what one of these holds as well. */
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

/** Numbers on the host, row-major, with a shape: what programs take and return. */
export class NDArray {
  readonly data: Float32Array | Int32Array
  readonly shape: Shape

  /**
   * A Float32Array is float32 and an Int32Array int32, neither of them copied. Plain numbers and a Float64Array are
   * rounded to float32; whole numbers in other typed arrays become int32.
   *
   * Throws ShapeError when there are not as many numbers as the shape has elements, when the data are something else
   * than numbers, and when int32 does not reach one of a Uint32Array.
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

/** The dtype follows from the type of the array and never from the values: an index must be int32 on purpose. */
function toElements(data: Numbers): Float32Array | Int32Array {
  if (data instanceof Float32Array || data instanceof Int32Array) return data
  if (data instanceof Float64Array) return Float32Array.from(data)
  if (Array.isArray(data)) {
    const wrong = data.findIndex(value => typeof value !== 'number')
    if (wrong >= 0)
      throw new ShapeError(
        `array: element ${wrong} is no number but ${showValue(data[wrong])}; pass one flat list of numbers, and a shape`,
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

/** The numbers of scalars, by their names. */
export function items<Name extends string>(scalars: Readonly<Record<Name, NDArray>>): Record<Name, number> {
  const numbers = Object.entries<NDArray>(scalars).map(([name, scalar]) => [name, scalar.item()])
  // The names are those of the scalars.
  return Object.fromEntries(numbers) as Record<Name, number>
}

/** An NDArray of these numbers, see its constructor; without a shape, one axis of them. */
export const array = (data: Numbers, shape?: Shape): NDArray => new NDArray(data, shape)
