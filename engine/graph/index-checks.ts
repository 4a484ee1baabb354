/** Finds the inputs of a function that are used as indices, so that each call can check their data before it runs. */
import type { GraphNode } from './node.ts'
import { type Shape, contiguousStrides, sizeOf } from './shape.ts'

/** The indices that an operation takes: 0 to limit - 1, and `ignored`. */
export interface IndexRange {
  /** The operation's name, for error messages. */
  readonly by: string
  readonly limit: number
  readonly ignored?: number
}

/** Elements of an input that are used as indices, and the range that they must be in. */
export interface IndexCheck extends IndexRange {
  readonly input: GraphNode
  /** For each element, in row-major order, 1 if it is used as an index and 0 if not. */
  readonly isUsed: Uint8Array
}

/**
 * Checks indices that come from constants or aranges, directly or through views, and throws RangeError if one is out of
 * range. For indices that come from inputs it adds to `checks` what every call has to check (without `checks`, nothing).
 * Computed indices and those in variables are not checked.
 */
export function checkIndices(indices: GraphNode, range: IndexRange, checks: IndexCheck[] | undefined): void {
  const places = Int32Array.from({ length: sizeOf(indices.shape) }, (_, i) => i)
  follow(indices, places, range, checks)
}

/** Checks the data of an input. Throws RangeError for the first index that is out of range. */
export function checkData(data: Float32Array | Int32Array, check: IndexCheck): void {
  const { input, isUsed, limit, ignored } = check
  for (let i = 0; i < data.length; i++) {
    const value = data[i]
    if ((value >= 0 && value < limit) || isUsed[i] === 0 || value === ignored) continue
    const name = input.operation.kind === 'input' ? `input '${input.operation.name}'` : 'an input'
    throw outOfRange(check, `${name} has ${value} at [${positionOf(i, input.shape).join(', ')}]`)
  }
}

function outOfRange({ by, limit, ignored }: IndexRange, what: string): RangeError {
  const or = ignored === undefined ? '' : `, or ${ignored} to be ignored`
  return new RangeError(`${by}: ${what}, and it takes 0 to ${limit - 1}${or}`)
}

/**
 * Follows elements of a node, given by their row-major places, back through views to the nodes that their values come
 * from, and checks them there.
 */
function follow(
  tensor: GraphNode,
  places: Int32Array,
  range: IndexRange,
  checks: IndexCheck[] | undefined,
): void {
  const { operation, inputs, shape } = tensor
  const [inner] = inputs
  switch (operation.kind) {
    case 'input':
      if (checks) addCheck(tensor, places, range, checks)
      return
    case 'constant':
      if (places.length > 0) checkKnown(operation.value, range)
      return
    case 'iota':
      for (const place of places) checkKnown(place, range)
      return
    case 'reshape':
      return follow(inner, places, range, checks)
    case 'transpose': {
      const strides = contiguousStrides(inner.shape)
      const moved = operation.permutation.map(axis => strides[axis])
      return follow(inner, moveAll(places, shape, moved), range, checks)
    }
    case 'slice': {
      const strides = contiguousStrides(inner.shape)
      return follow(
        inner,
        moveAll(places, shape, strides, operation.start * strides[operation.axis]),
        range,
        checks,
      )
    }
    case 'broadcast': {
      const strides = contiguousStrides(inner.shape).map((stride, axis) =>
        inner.shape[axis] === 1 ? 0 : stride,
      )
      const added = new Array<number>(shape.length - strides.length).fill(0)
      return follow(inner, moveAll(places, shape, [...added, ...strides]), range, checks)
    }
    case 'concat': {
      const { axis } = operation
      const strides = contiguousStrides(shape)
      const along = (place: number) => Math.floor(place / strides[axis]) % shape[axis]
      let start = 0
      for (const piece of inputs) {
        const from = start
        const end = (start += piece.shape[axis])
        const within = places.filter(place => along(place) >= from && along(place) < end)
        follow(
          piece,
          moveAll(
            within,
            shape,
            contiguousStrides(piece.shape),
            -from * contiguousStrides(piece.shape)[axis],
          ),
          range,
          checks,
        )
      }
      return
    }
    case 'variable':
    case 'unary':
    case 'binary':
    case 'where':
    case 'reduce':
    case 'columnSum':
    case 'matmul':
    case 'gather':
    case 'scatterAdd':
    case 'attention':
    case 'attentionGradient':
    case 'element':
      return
    default:
      operation satisfies never
  }
}

/** Throws RangeError for an index that is out of range. */
function checkKnown(value: number, range: IndexRange): void {
  const { limit, ignored } = range
  if ((value >= 0 && value < limit) || value === ignored) return
  throw outOfRange(range, `one of the indices is ${value}`)
}

/** Notes that an input's elements at these places are used as indices. */
function addCheck(input: GraphNode, places: Int32Array, range: IndexRange, checks: IndexCheck[]): void {
  const same = ({ input: other, limit, ignored }: IndexCheck) =>
    other === input && limit === range.limit && ignored === range.ignored
  let check = checks.find(same)
  if (!check) {
    check = { ...range, input, isUsed: new Uint8Array(sizeOf(input.shape)) }
    checks.push(check)
  }
  for (const place of places) check.isUsed[place] = 1
}

/** The index along each axis of the element at a row-major place. */
const positionOf = (place: number, shape: Shape): number[] =>
  contiguousStrides(shape).map((stride, axis) => Math.floor(place / stride) % shape[axis])

/** Turns places in a tensor of this shape into places in one that is read with these strides. */
function moveAll(places: Int32Array, shape: Shape, strides: readonly number[], offset = 0): Int32Array {
  const own = contiguousStrides(shape)
  return places.map(place => {
    let moved = offset
    for (let axis = 0; axis < shape.length; axis++)
      moved += (Math.floor(place / own[axis]) % shape[axis]) * strides[axis]
    return moved
  })
}
