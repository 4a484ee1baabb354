/** Views: how movements change the offset, shape and strides of a tensor in memory. */
import type { Buffer, View } from './program.ts'
import { type Shape, contiguousStrides } from '../graph/shape.ts'

/** A whole buffer, row-major. */
export const wholeView = (buffer: Buffer, shape: Shape): View => ({
  buffer,
  offset: 0,
  shape,
  strides: contiguousStrides(shape),
})

/** The dimensions of a view without extents of 1, with neighbours merged where one stride covers both. */
export function collapse(shape: Shape, strides: readonly number[]): [extent: number, stride: number][] {
  const dims: [extent: number, stride: number][] = []
  shape.forEach((extent, axis) => {
    if (extent === 1) return
    const last = dims[dims.length - 1]
    if (last && last[1] === strides[axis] * extent) dims[dims.length - 1] = [last[0] * extent, strides[axis]]
    else dims.push([extent, strides[axis]])
  })
  return dims
}

/** The same elements in another shape; undefined if that takes a copy. */
export function reshapeView(view: View, shape: Shape): View | undefined {
  const dims = collapse(view.shape, view.strides)
  const strides = new Array<number>(shape.length).fill(0)
  // Split each merged dimension into axes of the new shape, from the last.
  let axis = shape.length - 1
  for (let i = dims.length - 1; i >= 0; i--) {
    const [extent, stride] = dims[i]
    let filled = 1
    while (filled < extent) {
      if (axis < 0) return undefined
      strides[axis] = stride * filled
      filled *= shape[axis--]
    }
    if (filled !== extent) return undefined
  }
  return { ...view, shape, strides }
}

export const transposeView = (view: View, permutation: readonly number[]): View => ({
  ...view,
  shape: permutation.map(axis => view.shape[axis]),
  strides: permutation.map(axis => view.strides[axis]),
})

export const sliceView = (view: View, axis: number, start: number, shape: Shape): View => ({
  ...view,
  offset: view.offset + start * view.strides[axis],
  shape,
})

/** Repeats elements, by strides of 0. */
export function broadcastView(view: View, shape: Shape): View {
  const added = shape.length - view.shape.length
  const strides = shape.map((extent, axis) => {
    const inner = axis - added
    return inner < 0 || (view.shape[inner] === 1 && extent !== 1) ? 0 : view.strides[inner]
  })
  return { ...view, shape, strides }
}
