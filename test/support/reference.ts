/**
 * The engine's tensor operations in float64, the plainest way, to compare with: a function written
 * once over Maths<T> runs on the engine's tensors and on these.
 */
import {
  type Shape,
  Tensor,
  arange,
  concat,
  full,
  gelu,
  layerNorm,
  relu,
  rmsNorm,
  scatterAdd,
  sigmoid,
  softmax,
  softplus,
  where,
} from '../../engine/index.ts'

/** The methods that tensors and references share. */
export interface Maths<T> {
  readonly shape: Shape
  readonly size: number
  readonly T: T
  add(other: T | number): T
  sub(other: T | number): T
  mul(other: T | number): T
  div(other: T | number): T
  maximum(other: T | number): T
  minimum(other: T | number): T
  equal(other: T | number): T
  less(other: T | number): T
  lessEqual(other: T | number): T
  and(other: T): T
  neg(): T
  abs(): T
  exp(): T
  log(): T
  log1p(): T
  sqrt(): T
  reciprocal(): T
  rsqrt(): T
  square(): T
  sin(): T
  cos(): T
  tanh(): T
  erf(): T
  floor(): T
  pow(power: number): T
  detach(): T
  toFloat(): T
  toInt(): T
  sum(axis?: number, keepDims?: boolean): T
  max(axis?: number, keepDims?: boolean): T
  mean(axis?: number, keepDims?: boolean): T
  matmul(other: T): T
  transpose(first: number, second: number): T
  permute(permutation: readonly number[]): T
  reshape(...extents: number[]): T
  broadcastTo(shape: Shape): T
  slice(axis: number, start: number, end: number): T
  split(sizes: readonly number[], axis?: number): T[]
  gather(indices: T): T
}

/** The functions beside the methods. */
export interface Tools<T> {
  where(condition: T, a: T | number, b: T | number): T
  concat(tensors: readonly T[], axis?: number): T
  full(shape: Shape, value: number): T
  arange(end: number): T
  scatterAdd(values: T, indices: T, rows: number): T
  gelu(x: T): T
  relu(x: T): T
  sigmoid(x: T): T
  softplus(x: T): T
  softmax(x: T): T
  layerNorm(x: T, epsilon?: number): T
  rmsNorm(x: T, epsilon?: number): T
}

export const engineTools: Tools<Tensor> = {
  where,
  concat,
  full,
  arange,
  scatterAdd,
  gelu,
  relu,
  sigmoid,
  softplus,
  softmax,
  layerNorm,
  rmsNorm,
}

const sizeOf = (shape: Shape) => shape.reduce((a, b) => a * b, 1)

/** The error function in float64: its series near zero, and a continued fraction of erfc beyond. */
export function erf(x: number): number {
  const size = Math.abs(x)
  if (Number.isNaN(x)) return NaN
  if (size > 6) return Math.sign(x)
  if (size < 2.5) {
    let term = x
    let sum = x
    for (let n = 1; n < 100; n++) {
      term *= -(x * x) / n
      sum += term / (2 * n + 1)
    }
    return (2 / Math.sqrt(Math.PI)) * sum
  }
  let fraction = 0
  for (let n = 80; n > 0; n--) fraction = n / 2 / (size + fraction)
  return Math.sign(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (size + fraction))
}

/** An array of float64 numbers; truth values are 0 and 1. */
export class Reference implements Maths<Reference> {
  readonly data: Float64Array
  readonly shape: Shape

  constructor(data: Iterable<number>, shape: Shape) {
    this.data = Float64Array.from(data)
    this.shape = shape
    if (this.data.length !== sizeOf(shape))
      throw new Error(`${this.data.length} numbers for [${shape.join()}]`)
  }

  /** A reference of this shape, each element made from its index. */
  static make(shape: Shape, element: (index: number[]) => number): Reference {
    const data = new Float64Array(sizeOf(shape))
    const index = shape.map(() => 0)
    for (let i = 0; i < data.length; i++) {
      data[i] = element(index)
      for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--) index[axis] = 0
    }
    return new Reference(data, shape)
  }

  at(index: readonly number[]): number {
    let offset = 0
    this.shape.forEach((extent, axis) => (offset = offset * extent + index[axis]))
    return this.data[offset]
  }

  get size(): number {
    return this.data.length
  }

  private map(element: (value: number) => number): Reference {
    return new Reference(this.data.map(element), this.shape)
  }

  private zip(other: Reference | number, element: (a: number, b: number) => number): Reference {
    const b = typeof other === 'number' ? new Reference([other], []) : other
    const rank = Math.max(this.shape.length, b.shape.length)
    const shape = Array.from({ length: rank }, (_, axis) =>
      Math.max(this.shape.at(axis - rank) ?? 1, b.shape.at(axis - rank) ?? 1),
    )
    // at() with a negative index reaches an axis that a shorter shape lacks.
    const [left, right] = [this, b].map(x => x.padded(rank).broadcastTo(shape))
    return new Reference(
      left.data.map((value, i) => element(value, right.data[i])),
      shape,
    )
  }

  private padded(rank: number): Reference {
    return new Reference(this.data, [...new Array<number>(rank - this.shape.length).fill(1), ...this.shape])
  }

  add(other: Reference | number): Reference {
    return this.zip(other, (a, b) => a + b)
  }
  sub(other: Reference | number): Reference {
    return this.zip(other, (a, b) => a - b)
  }
  mul(other: Reference | number): Reference {
    return this.zip(other, (a, b) => a * b)
  }
  div(other: Reference | number): Reference {
    return this.zip(other, (a, b) => a / b)
  }
  maximum(other: Reference | number): Reference {
    return this.zip(other, Math.max)
  }
  minimum(other: Reference | number): Reference {
    return this.zip(other, Math.min)
  }
  equal(other: Reference | number): Reference {
    return this.zip(other, (a, b) => Number(a === b))
  }
  less(other: Reference | number): Reference {
    return this.zip(other, (a, b) => Number(a < b))
  }
  lessEqual(other: Reference | number): Reference {
    return this.zip(other, (a, b) => Number(a <= b))
  }
  and(other: Reference): Reference {
    return this.zip(other, (a, b) => Number(a !== 0 && b !== 0))
  }

  neg(): Reference {
    return this.map(x => -x)
  }
  abs(): Reference {
    return this.map(Math.abs)
  }
  exp(): Reference {
    return this.map(Math.exp)
  }
  log(): Reference {
    return this.map(Math.log)
  }
  log1p(): Reference {
    return this.map(Math.log1p)
  }
  sqrt(): Reference {
    return this.map(Math.sqrt)
  }
  reciprocal(): Reference {
    return this.map(x => 1 / x)
  }
  rsqrt(): Reference {
    return this.map(x => 1 / Math.sqrt(x))
  }
  square(): Reference {
    return this.map(x => x * x)
  }
  sin(): Reference {
    return this.map(Math.sin)
  }
  cos(): Reference {
    return this.map(Math.cos)
  }
  tanh(): Reference {
    return this.map(Math.tanh)
  }
  erf(): Reference {
    return this.map(erf)
  }
  floor(): Reference {
    return this.map(Math.floor)
  }
  pow(power: number): Reference {
    return this.map(x => x ** power)
  }
  detach(): Reference {
    return this
  }
  toFloat(): Reference {
    return this
  }
  toInt(): Reference {
    return this.map(Math.trunc)
  }

  private reduce(
    axis: number | undefined,
    keepDims: boolean,
    start: number,
    add: (a: number, b: number) => number,
  ): Reference {
    const axes =
      axis === undefined ? this.shape.map((_, i) => i) : [axis < 0 ? axis + this.shape.length : axis]
    const extents = axes.map(i => this.shape[i])
    const kept = this.shape.map((extent, i) => (axes.includes(i) ? 1 : extent))
    const result = Reference.make(kept, index => {
      let sum = start
      const inner = Reference.make(extents, () => 0)
      for (let i = 0; i < inner.size; i++) {
        const at = [...index]
        let rest = i
        for (let j = axes.length - 1; j >= 0; j--) {
          at[axes[j]] = rest % extents[j]
          rest = Math.floor(rest / extents[j])
        }
        sum = add(sum, this.at(at))
      }
      return sum
    })
    return keepDims ? result : result.reshape(...this.shape.filter((_, i) => !axes.includes(i)))
  }
  sum(axis?: number, keepDims = false): Reference {
    return this.reduce(axis, keepDims, 0, (a, b) => a + b)
  }
  max(axis?: number, keepDims = false): Reference {
    return this.reduce(axis, keepDims, -Infinity, Math.max)
  }
  mean(axis?: number, keepDims = false): Reference {
    const sum = this.sum(axis, keepDims)
    return sum.mul(sum.size / this.size)
  }

  matmul(other: Reference): Reference {
    const lead = this.shape.slice(0, -2)
    const [m, k] = this.shape.slice(-2)
    const n = other.shape[other.shape.length - 1]
    const batched = other.shape.length > 2
    const a = this.data
    const b = other.data
    const out = new Float64Array(sizeOf(lead) * m * n)
    for (let batch = 0; batch < sizeOf(lead); batch++) {
      for (let i = 0; i < m; i++) {
        for (let l = 0; l < k; l++) {
          const left = a[(batch * m + i) * k + l]
          const row = ((batched ? batch * k : 0) + l) * n
          for (let j = 0; j < n; j++) out[(batch * m + i) * n + j] += left * b[row + j]
        }
      }
    }
    return new Reference(out, [...lead, m, n])
  }
  get T(): Reference {
    return this.transpose(-2, -1)
  }
  transpose(first: number, second: number): Reference {
    const rank = this.shape.length
    const order = this.shape.map((_, axis) => axis)
    const [a, b] = [(first + rank) % rank, (second + rank) % rank]
    order[a] = b
    order[b] = a
    return this.permute(order)
  }
  permute(permutation: readonly number[]): Reference {
    const from = new Array<number>(permutation.length)
    return Reference.make(
      permutation.map(axis => this.shape[axis]),
      index => {
        permutation.forEach((axis, i) => (from[axis] = index[i]))
        return this.at(from)
      },
    )
  }
  reshape(...extents: number[]): Reference {
    const known = extents.reduce((size, extent) => (extent === -1 ? size : size * extent), 1)
    return new Reference(
      this.data,
      extents.map(extent => (extent === -1 ? this.size / known : extent)),
    )
  }
  broadcastTo(shape: Shape): Reference {
    const padded = this.padded(shape.length)
    return Reference.make(shape, index =>
      padded.at(index.map((i, axis) => (padded.shape[axis] === 1 ? 0 : i))),
    )
  }
  slice(axis: number, start: number, end: number): Reference {
    const at = axis < 0 ? axis + this.shape.length : axis
    const shape = this.shape.map((extent, i) => (i === at ? end - start : extent))
    return Reference.make(shape, index => this.at(index.map((i, j) => (j === at ? i + start : i))))
  }
  split(sizes: readonly number[], axis = -1): Reference[] {
    let start = 0
    return sizes.map(size => this.slice(axis, start, (start += size)))
  }
  gather(indices: Reference): Reference {
    const last = this.shape[0] - 1
    return Reference.make([...indices.shape, this.shape[1]], index => {
      const row = Math.min(last, Math.max(0, indices.at(index.slice(0, -1))))
      return this.at([row, index[index.length - 1]])
    })
  }
}

const softmaxOf = (x: Reference): Reference => {
  const scaled = x.sub(x.max(-1, true)).exp()
  return scaled.div(scaled.sum(-1, true))
}

export const referenceTools: Tools<Reference> = {
  where(condition, a, b) {
    const yes = condition.mul(0).add(a)
    const no = condition.mul(0).add(b)
    // Not a sum of products: the branch that is not taken may be infinite.
    const wide = condition.add(yes.mul(0)).add(no.mul(0))
    const [left, right, test] = [yes, no, condition].map(x => x.broadcastTo(wide.shape))
    return new Reference(
      test.data.map((holds, i) => (holds ? left.data[i] : right.data[i])),
      wide.shape,
    )
  },
  concat(tensors, axis = -1) {
    const at = axis < 0 ? axis + tensors[0].shape.length : axis
    const extent = tensors.reduce((sum, { shape }) => sum + shape[at], 0)
    return Reference.make(
      tensors[0].shape.map((size, i) => (i === at ? extent : size)),
      index => {
        let rest = index[at]
        for (const tensor of tensors) {
          if (rest < tensor.shape[at]) return tensor.at(index.map((i, j) => (j === at ? rest : i)))
          rest -= tensor.shape[at]
        }
        return NaN
      },
    )
  },
  full: (shape, value) => Reference.make(shape, () => value),
  arange: end => Reference.make([end], ([index]) => index),
  scatterAdd(values, indices, rows) {
    const columns = values.shape[values.shape.length - 1]
    const sums = new Float64Array(rows * columns)
    values.data.forEach((value, i) => {
      const row = Math.min(rows - 1, Math.max(0, indices.data[Math.floor(i / columns)]))
      sums[row * columns + (i % columns)] += value
    })
    return new Reference(sums, [rows, columns])
  },
  gelu: x => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5),
  relu: x => x.maximum(0),
  sigmoid: x => x.neg().exp().add(1).reciprocal(),
  softplus: x =>
    new Reference(
      x.data.map(value => (value > 30 ? value : Math.log1p(Math.exp(value)))),
      x.shape,
    ),
  softmax: softmaxOf,
  layerNorm(x, epsilon = 1e-5) {
    const centered = x.sub(x.mean(-1, true))
    return centered.div(centered.square().mean(-1, true).add(epsilon).sqrt())
  },
  rmsNorm: (x, epsilon = 1e-6) => x.div(x.square().mean(-1, true).add(epsilon).sqrt()),
}

/** A function of tensors, written once for both. */
export type Body = <T extends Maths<T>>(tools: Tools<T>, ...inputs: T[]) => T

/** Random numbers in [0, 1) from a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Numbers between low and high that float32 holds exactly. */
export function randomArray(shape: Shape, random: () => number, low = -1, high = 1): Float32Array {
  return Float32Array.from({ length: sizeOf(shape) }, () => low + (high - low) * random())
}
