/** Shapes and what they broadcast to, and the error for wrong ones. */

/** The extents of a tensor's axes, outermost first; [] is a scalar. */
export type Shape = readonly number[]

/** A wrong shape, dtype or axis. It is thrown at the line of the user's program that makes the tensor. */
export class ShapeError extends Error {
  override name = 'ShapeError'
}

/** The number of elements in a tensor of this shape. */
export const sizeOf = (shape: Shape): number => shape.reduce((size, extent) => size * extent, 1)

/** Throws ShapeError unless each extent is a whole number, 0 or more. */
export function checkShape(operation: string, shape: Shape): void {
  if (!Array.isArray(shape) || !shape.every(extent => Number.isInteger(extent) && extent >= 0))
    throw new ShapeError(
      `${operation}: a shape is a list of whole numbers from 0 on, not ${Array.isArray(shape) ? showShape(shape) : showValue(shape)}`,
    )
}

/** Describes a wrong value in an error message. */
export function showValue(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value !== 'object' || value === null) return String(value)
  return `a value of type ${value.constructor?.name ?? 'Object'}`
}

export const showShape = (shape: Shape): string => `[${shape.join(', ')}]`

export const sameShape = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((extent, axis) => extent === b[axis])

/** Row-major strides, in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride
    stride *= shape[axis]
  }
  return strides
}

/** The shape that two operands broadcast to by NumPy's rule. Throws ShapeError if they do not broadcast. */
export function broadcastShapes(operation: string, a: Shape, b: Shape): Shape {
  const length = Math.max(a.length, b.length)
  return Array.from({ length }, (_, axis) => {
    const x = a[axis - length + a.length] ?? 1
    const y = b[axis - length + b.length] ?? 1
    if (x !== y && x !== 1 && y !== 1) {
      throw new ShapeError(`${operation}: shapes ${showShape(a)} and ${showShape(b)} do not broadcast`)
    }
    return x === 1 ? y : x
  })
}

/** Turns an axis, which may be negative, into its index. Throws ShapeError if the shape has no such axis. */
export function axisIndex(operation: string, shape: Shape, axis: number): number {
  const index = axis < 0 ? axis + shape.length : axis
  if (!Number.isInteger(axis) || index < 0 || index >= shape.length) {
    throw new ShapeError(`${operation}: no axis ${axis} in shape ${showShape(shape)}`)
  }
  return index
}
