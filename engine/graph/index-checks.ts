/** Finds out which of a function's inputs are used as indices, to check their data before the function runs. */
import { Trace } from './operations.ts'
import { type Shape, sizeOf } from './shape.ts'
import type { Tensor } from './tensor.ts'

/** What an operation takes as an index: 0 to limit - 1, or `ignored`. */
export interface IndexRange {
  /** The operation, as its users call it. */
  readonly by: string
  readonly limit: number
  readonly ignored?: number
}

/** Elements of an input that are used as indices. */
export interface IndexCheck extends IndexRange {
  readonly input: Tensor
  /** 1 where an element is; by its place in row-major order. */
  readonly isUsed: Uint8Array
}

/**
 * Has indices checked wherever they come from by views alone: constants and aranges at once, and inputs of the function
 * that is being traced each time before it runs. What is computed, or is in a variable, is not checked.
 * Throws RangeError.
 */
export function checkIndices(indices: Tensor, range: IndexRange): void {
  follow(
    indices,
    Int32Array.from({ length: indices.size }, (_, i) => i),
    range,
  )
}

/** Checks an array that is given for an input. Throws RangeError for the first index that is out of range. */
export function checkData(data: Float32Array | Int32Array, check: IndexCheck): void {
  const { input, isUsed, limit, ignored } = check
  for (let i = 0; i < data.length; i++) {
    const value = data[i]
    if ((value >= 0 && value < limit) || isUsed[i] === 0 || value === ignored) continue
    const name = input.operation.kind === 'input' ? `input '${input.operation.name}'` : 'an input'
    throw outOfRange(check, `${name} has ${value} at [${placeOf(i, input.shape).join(', ')}]`)
  }
}

function outOfRange({ by, limit, ignored }: IndexRange, what: string): RangeError {
  const or = ignored === undefined ? '' : `, or ${ignored} for what does not count`
  return new RangeError(`${by}: ${what}, and it takes 0 to ${limit - 1}${or}`)
}

/** Goes back through views from elements of a tensor, given by their places, to where their values are known. */
function follow(tensor: Tensor, places: Int32Array, range: IndexRange): void {
  const { operation, inputs, shape } = tensor
  const [inner] = inputs
  switch (operation.kind) {
    case 'input':
      note(tensor, places, range)
      return
    case 'constant':
      if (places.length > 0) checkKnown(operation.value, range)
      return
    case 'iota':
      for (const place of places) checkKnown(place, range)
      return
    case 'reshape':
      return follow(inner, places, range)
    case 'transpose': {
      const strides = stridesOf(inner.shape)
      const moved = operation.permutation.map(axis => strides[axis])
      return follow(inner, moveAll(places, shape, moved), range)
    }
    case 'slice': {
      const strides = stridesOf(inner.shape)
      return follow(inner, moveAll(places, shape, strides, operation.start * strides[operation.axis]), range)
    }
    case 'broadcast': {
      const strides = stridesOf(inner.shape).map((stride, axis) => (inner.shape[axis] === 1 ? 0 : stride))
      const added = new Array<number>(shape.length - strides.length).fill(0)
      return follow(inner, moveAll(places, shape, [...added, ...strides]), range)
    }
    case 'concat': {
      const { axis } = operation
      const strides = stridesOf(shape)
      const along = (place: number) => Math.floor(place / strides[axis]) % shape[axis]
      let start = 0
      for (const piece of inputs) {
        const from = start
        const end = (start += piece.shape[axis])
        const within = places.filter(place => along(place) >= from && along(place) < end)
        follow(
          piece,
          moveAll(within, shape, stridesOf(piece.shape), -from * stridesOf(piece.shape)[axis]),
          range,
        )
      }
      return
    }
    default:
      return
  }
}

function checkKnown(value: number, range: IndexRange): void {
  const { limit, ignored } = range
  if ((value >= 0 && value < limit) || value === ignored) return
  throw outOfRange(range, `one of the indices is ${value}`)
}

function note(input: Tensor, places: Int32Array, range: IndexRange): void {
  const checks = Trace.active?.indexChecks
  if (!checks) return
  const same = ({ input: other, limit, ignored }: IndexCheck) =>
    other === input && limit === range.limit && ignored === range.ignored
  let check = checks.find(same)
  if (!check) {
    check = { ...range, input, isUsed: new Uint8Array(input.size) }
    checks.push(check)
  }
  for (const place of places) check.isUsed[place] = 1
}

/** Row-major. */
const stridesOf = (shape: Shape): number[] => shape.map((_, axis) => sizeOf(shape.slice(axis + 1)))

const placeOf = (place: number, shape: Shape): number[] =>
  stridesOf(shape).map((stride, axis) => Math.floor(place / stride) % shape[axis])

/** From places in a tensor of this shape to those in one with these strides. */
function moveAll(places: Int32Array, shape: Shape, strides: readonly number[], offset = 0): Int32Array {
  const own = stridesOf(shape)
  return places.map(place => {
    let moved = offset
    for (let axis = 0; axis < shape.length; axis++)
      moved += (Math.floor(place / own[axis]) % shape[axis]) * strides[axis]
    return moved
  })
}
