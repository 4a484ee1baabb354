/** Tensor, the node of a graph, and the primitive operations. */
import { type IndexCheck, checkIndices } from './index-checks.ts'
import { type GraphNode, keyOf } from './node.ts'
import type { BinaryName, DType, Operation, UnaryName } from './operations.ts'
import { noteOrigin, withOriginOf } from './origins.ts'
import { recursive } from './recursion.ts'
import {
  type Shape,
  ShapeError,
  axisIndex,
  broadcastShapes,
  checkShape,
  sameShape,
  showShape,
  showValue,
  sizeOf,
} from './shape.ts'

/** An operand of arithmetic: a tensor, or a number that becomes a constant of the other operand's dtype. */
export type Operand = Tensor | number

/**
 * A slice that has sunk: instead of computing all of a tensor and slicing it, slice the tensor's inputs and compute only
 * the slice. The rest is never computed, and neither is its gradient.
 */
export interface SunkSlice {
  readonly value: Tensor
  /** Nodes that only one of the two forms is computed from. */
  readonly bypassed: ReadonlySet<Tensor>
}

/** Records the nodes that are made while a function is traced; see Trace. */
export interface Recorder {
  /** The microbatch of the nodes that are made now; see Tensor.microbatch. */
  readonly microbatch: number
  /** What must hold for the data of the function's inputs. */
  readonly indexChecks: IndexCheck[]
  /** The node of this microbatch with this key, made if there is none: common subexpressions are one node. */
  shared(key: string, make: () => Tensor): Tensor
}

let recorder: Recorder | undefined

/** Has new nodes recorded, or no longer recorded if undefined. */
export function useRecorder(next: Recorder | undefined): void {
  recorder = next
}

let nodeCount = 0

/** Powers 2, 3, ... up to this are products. Each product rounds once, so more of them would lose digits. */
const largestProductPower = 4

/**
 * A node of a graph: what to compute from which inputs, with a known shape and dtype. Arithmetic broadcasts by NumPy's
 * rule. Nothing is computed until a function that compile() has traced is called, and nothing is freed by hand: the
 * compiled program plans its memory.
 */
export class Tensor implements GraphNode {
  readonly id: number = nodeCount++
  /** Earlier microbatches run first where dependencies allow. It is never before that of an input. */
  readonly microbatch: number
  readonly operation: Operation
  readonly inputs: readonly Tensor[]
  readonly shape: Shape
  readonly dtype: DType
  /** For a slice that can sink: its other form. */
  readonly sunk: SunkSlice | undefined

  constructor(
    operation: Operation,
    inputs: readonly Tensor[],
    shape: Shape,
    dtype: DType,
    { microbatch = recorder?.microbatch ?? 0, sunk }: { microbatch?: number; sunk?: SunkSlice } = {},
  ) {
    this.operation = operation
    this.inputs = inputs
    this.microbatch = inputs.reduce((latest, input) => Math.max(latest, input.microbatch), microbatch)
    this.sunk = sunk
    this.shape = shape
    this.dtype = dtype
    noteOrigin(this)
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  add(other: Operand): Tensor {
    return binary('add', this, other)
  }
  sub(other: Operand): Tensor {
    return binary('subtract', this, other)
  }
  mul(other: Operand): Tensor {
    return binary('multiply', this, other)
  }
  /** For float32 only. Convert int32 operands with toFloat(), and round the quotient with floor() or toInt(). */
  div(other: Operand): Tensor {
    return binary('divide', this, other)
  }
  /** The larger of each pair; NaN if one is NaN. Where both are equal, each gets half of the gradient. */
  maximum(other: Operand): Tensor {
    return binary('maximum', this, other)
  }
  /** The smaller of each pair; NaN if one is NaN. Where both are equal, each gets half of the gradient. */
  minimum(other: Operand): Tensor {
    return binary('minimum', this, other)
  }
  equal(other: Operand): Tensor {
    return binary('equal', this, other)
  }
  less(other: Operand): Tensor {
    return binary('less', this, other)
  }
  lessEqual(other: Operand): Tensor {
    return binary('lessEqual', this, other)
  }
  /** Logical and of bools; bitwise and of int32. */
  and(other: Operand): Tensor {
    return binary('and', this, other)
  }

  neg(): Tensor {
    return unary('negate', this)
  }
  /** Its derivative at 0 is 0. */
  abs(): Tensor {
    return unary('abs', this)
  }
  exp(): Tensor {
    return unary('exp', this)
  }
  log(): Tensor {
    return unary('log', this)
  }
  /** log(1 + x), with full precision for small x. */
  log1p(): Tensor {
    return unary('log1p', this)
  }
  sqrt(): Tensor {
    return unary('sqrt', this)
  }
  reciprocal(): Tensor {
    return unary('reciprocal', this)
  }
  /** 1 / sqrt(x) */
  rsqrt(): Tensor {
    return this.sqrt().reciprocal()
  }
  square(): Tensor {
    return this.mul(this)
  }
  sin(): Tensor {
    return unary('sin', this)
  }
  cos(): Tensor {
    return unary('cos', this)
  }
  tanh(): Tensor {
    return unary('tanh', this)
  }
  erf(): Tensor {
    return unary('erf', this)
  }
  floor(): Tensor {
    return unary('floor', this)
  }
  /**
   * x to a power, which is a finite number and is rounded to float32 first. Values are those of PyTorch's pow: x^0 is 1
   * even if x is NaN; a negative x gives a signed result for whole powers and NaN for others; a negative power of 0 is
   * infinite. For int32 the power must be 0, 1, 2, ..., and results wrap.
   *
   * Throws ShapeError for other powers.
   */
  pow(power: number): Tensor {
    const exponent = typeof power === 'number' ? Math.fround(power) : NaN
    if (!Number.isFinite(exponent))
      throw new ShapeError(`pow: the power must be a finite float32 number, not ${showValue(power)}`)
    const isWhole = Number.isInteger(exponent)
    if (this.dtype === 'int32' && !(isWhole && exponent >= 0))
      throw new ShapeError(
        `pow: for int32 the power must be 0, 1, 2, ..., not ${power}; convert the tensor with toFloat()`,
      )
    if (exponent === 0) return full(this.shape, 1, this.dtype)
    if (exponent === 1) return this
    if (exponent === 0.5) return this.sqrt()
    if (exponent === -0.5) return this.rsqrt()
    if (exponent === -1) return this.reciprocal()
    if (isWhole && exponent > 0 && (exponent <= largestProductPower || this.dtype === 'int32')) {
      const half = this.pow(Math.floor(exponent / 2)).square()
      return exponent % 2 === 0 ? half : half.mul(this)
    }
    return binary('power', this, exponent)
  }

  /** The same values, but no gradient flows through it. */
  detach(): Tensor {
    return unary('detach', this)
  }
  toFloat(): Tensor {
    return this.dtype === 'float32' ? this : unary('toFloat', this)
  }
  /** Rounds towards zero. Values out of range become the nearest int32, and NaN becomes 0; PyTorch defines neither. */
  toInt(): Tensor {
    return this.dtype === 'int32' ? this : unary('toInt', this)
  }

  /** Sum over one axis, or over all axes. */
  sum(axis?: number, keepDims = false): Tensor {
    return reduce('sum', this, axis, keepDims)
  }
  /** Largest element along one axis, or of the whole tensor. */
  max(axis?: number, keepDims = false): Tensor {
    return reduce('max', this, axis, keepDims)
  }
  mean(axis?: number, keepDims = false): Tensor {
    const count = axis === undefined ? this.size : this.shape[axisIndex('mean', this.shape, axis)]
    return this.sum(axis, keepDims).div(count)
  }

  /** Matrix product over the last two axes. The leading axes must be equal, unless `other` has none. */
  matmul(other: Tensor): Tensor {
    return matmul(this, other)
  }
  /** Swaps the last two axes. */
  get T(): Tensor {
    return this.transpose(-2, -1)
  }
  transpose(first: number, second: number): Tensor {
    const a = axisIndex('transpose', this.shape, first)
    const b = axisIndex('transpose', this.shape, second)
    const permutation = this.shape.map((_, axis) => (axis === a ? b : axis === b ? a : axis))
    return this.permute(permutation)
  }
  permute(permutation: readonly number[]): Tensor {
    const { shape } = this
    if (
      [...permutation].sort((a, b) => a - b).some((axis, i) => axis !== i) ||
      permutation.length !== shape.length
    ) {
      throw new ShapeError(
        `permute: [${permutation.join(', ')}] does not order the axes of ${showShape(shape)}`,
      )
    }
    if (permutation.every((axis, i) => axis === i)) return this
    return node(
      { kind: 'transpose', permutation },
      [this],
      permutation.map(axis => shape[axis]),
      this.dtype,
    )
  }

  /** The same elements, in row-major order, in another shape. One extent may be -1, which means whatever fits. */
  reshape(...extents: number[]): Tensor {
    const known = extents.reduce((size, extent) => (extent === -1 ? size : size * extent), 1)
    const shape = extents.map(extent => (extent === -1 ? this.size / known : extent))
    if (sizeOf(shape) !== this.size || !shape.every(extent => Number.isInteger(extent) && extent >= 0)) {
      throw new ShapeError(
        `reshape: ${showShape(this.shape)} has ${this.size} elements, and ${showShape(extents)} does not fit them`,
      )
    }
    if (sameShape(shape, this.shape)) return this
    return node({ kind: 'reshape' }, [this], shape, this.dtype)
  }
  broadcastTo(shape: Shape): Tensor {
    if (sameShape(this.shape, shape)) return this
    if (!sameShape(broadcastShapes('broadcastTo', this.shape, shape), shape)) {
      throw new ShapeError(`broadcastTo: ${showShape(this.shape)} does not broadcast to ${showShape(shape)}`)
    }
    return node({ kind: 'broadcast' }, [this], shape, this.dtype)
  }
  /** The elements start, ..., end - 1 along an axis. */
  slice(axis: number, start: number, end: number): Tensor {
    return slice(this, axisIndex('slice', this.shape, axis), start, end)
  }
  /** Cuts an axis into consecutive pieces of the given sizes. */
  split(sizes: readonly number[], axis = -1): Tensor[] {
    const extent = this.shape[axisIndex('split', this.shape, axis)]
    if (sizes.reduce((sum, size) => sum + size, 0) !== extent) {
      throw new ShapeError(
        `split: sizes [${sizes.join(', ')}] do not add up to ${extent}, axis ${axis} of ${showShape(this.shape)}`,
      )
    }
    let start = 0
    return sizes.map(size => this.slice(axis, start, (start += size)))
  }
  /**
   * Rows of this [rows, n] table at the int32 indices [...]; returns [..., n]. Indices that come from inputs, directly or
   * through views, are checked: a call with an index outside of the table throws RangeError. Computed indices are not
   * checked, but clamped to the table.
   */
  gather(indices: Tensor): Tensor {
    if (this.shape.length !== 2)
      throw new ShapeError(`gather: the table must be [rows, n], not ${showShape(this.shape)}`)
    if (indices.dtype !== 'int32') throw new ShapeError(`gather: indices must be int32, not ${indices.dtype}`)
    if (this.shape[0] === 0) throw new ShapeError(`gather: a table ${showShape(this.shape)} has no rows`)
    checkIndices(indices, { by: 'gather', limit: this.shape[0] }, recorder?.indexChecks)
    return node({ kind: 'gather' }, [this, indices], [...indices.shape, this.shape[1]], this.dtype)
  }
}

/**
 * Adds each row of values [..., n] to the row of a zero table [rows, n] that its int32 index [...] names: the transpose
 * of gather. A variable that is assigned itself plus this sum is updated in place, and only in the rows named. Indices
 * are checked and clamped as gather does it. The CPU adds the rows of one index one by one, as PyTorch does, so very
 * many of them lose digits.
 */
export function scatterAdd(values: Tensor, indices: Tensor, rows: number): Tensor {
  const { shape } = values
  if (
    indices.dtype !== 'int32' ||
    values.dtype !== 'float32' ||
    !sameShape(shape.slice(0, -1), indices.shape)
  ) {
    throw new ShapeError(
      `scatterAdd: float32 values [..., n] and int32 indices [...] are needed, not ${values.dtype} ${showShape(shape)} and ${indices.dtype} ${showShape(indices.shape)}`,
    )
  }
  if (!Number.isInteger(rows) || rows < 1)
    throw new ShapeError(`scatterAdd: the number of rows must be a positive whole number, not ${rows}`)
  checkIndices(indices, { by: 'scatterAdd', limit: rows }, recorder?.indexChecks)
  return node({ kind: 'scatterAdd', rows }, [values, indices], [rows, shape[shape.length - 1]], 'float32')
}

/** Makes a node. While a function is traced, returns the node that computes the same if there is one. */
export function node(
  operation: Operation,
  inputs: readonly Tensor[],
  shape: Shape,
  dtype: DType,
  sunk?: SunkSlice,
): Tensor {
  const make = () => new Tensor(operation, inputs, shape, dtype, { sunk })
  if (!recorder || operation.kind === 'input' || operation.kind === 'variable') return make()
  return recorder.shared(keyOf(operation, inputs, shape, dtype), make)
}

/** A tensor whose elements all have one value. Throws ShapeError when the dtype lacks it, as int32 lacks fractions. */
export function full(shape: Shape, value: number, dtype: DType = 'float32'): Tensor {
  checkShape('full', shape)
  if (typeof value !== 'number') throw new ShapeError(`full: ${showValue(value)} is not a number`)
  if (dtype === 'int32' && value !== wrapped(value))
    throw new ShapeError(`full: ${value} is not an int32, a whole number from -2^31 to 2^31 - 1`)
  if (dtype === 'bool' && value !== 0 && value !== 1)
    throw new ShapeError(`full: a bool is 0 or 1, not ${value}`)
  return constant(value, dtype).broadcastTo(shape)
}

/** A scalar constant. The value is rounded to the nearest float32, or wrapped to int32. */
function constant(value: number, dtype: DType): Tensor {
  const rounded = dtype === 'float32' ? Math.fround(value) : wrapped(value)
  return node({ kind: 'constant', value: rounded }, [], [], dtype)
}

/** The low 32 bits of a whole number, as int32. */
const wrapped = (value: number): number => value | 0

/** [0, 1, ..., end - 1] as int32. */
export function arange(end: number): Tensor {
  checkShape('arange', [end])
  return node({ kind: 'iota' }, [], [end], 'int32')
}

/** The value of a constant, also behind views; undefined for any other tensor. */
export function constantValue(tensor: Tensor): number | undefined {
  for (let base = tensor; ; base = base.sunk?.value ?? base.inputs[0]) {
    const { operation } = base
    if (operation.kind === 'constant') return operation.value
    if (!['broadcast', 'reshape', 'transpose', 'slice'].includes(operation.kind)) return undefined
  }
}

/** The dtypes of unary operations other than float32 to float32. An undefined result has the operand's dtype. */
const unaryDType: Partial<Record<UnaryName, readonly [from: readonly DType[], to: DType | undefined]>> = {
  negate: [['float32', 'int32'], undefined],
  detach: [['float32', 'int32', 'bool'], undefined],
  toFloat: [['int32', 'bool'], 'float32'],
  toInt: [['float32', 'bool'], 'int32'],
  bitsToUniform: [['int32'], 'float32'],
}

export function unary(name: UnaryName, x: Tensor): Tensor {
  const [from, to] = unaryDType[name] ?? [['float32'], x.dtype]
  if (!from.includes(x.dtype)) throw new ShapeError(`${name}: takes ${from.join(' or ')}, not ${x.dtype}`)
  return node({ kind: 'unary', name }, [x], x.shape, to ?? x.dtype)
}

const comparisons: readonly BinaryName[] = ['equal', 'less', 'lessEqual']

/** The dtypes that binary operations take, where these are not float32 and int32. */
const binaryDTypes: Partial<Record<BinaryName, readonly DType[]>> = {
  divide: ['float32'],
  power: ['float32'],
  equal: ['float32', 'int32', 'bool'],
  and: ['int32', 'bool'],
  xor: ['int32', 'bool'],
  randomBits: ['int32'],
}

/** int32 operations that wrap, so a number beyond int32 may wrap first. For any other, wrapping it would be wrong. */
const wrapping: readonly BinaryName[] = ['add', 'subtract', 'multiply', 'and', 'xor', 'randomBits']

/** A number as the constant operand of an operation on this dtype. */
function scalar(name: string, value: number, dtype: DType): Tensor {
  if (typeof value !== 'number')
    throw new ShapeError(`${name}: ${showValue(value)} is neither a tensor nor a number`)
  if (dtype === 'int32' && !Number.isInteger(value))
    throw new ShapeError(`${name}: ${value} is not an int32; convert the tensor with toFloat()`)
  if (dtype === 'int32' && value !== wrapped(value) && !wrapping.some(other => other === name))
    throw new ShapeError(`${name}: ${value} is beyond int32; convert the tensor with toFloat()`)
  return dtype === 'int32' ? constant(value, dtype) : full([], value, dtype)
}

export function binary(name: BinaryName, first: Operand, second: Operand): Tensor {
  const dtype = first instanceof Tensor ? first.dtype : second instanceof Tensor ? second.dtype : 'float32'
  const allowed = binaryDTypes[name] ?? ['float32', 'int32']
  for (const operand of [first, second]) {
    if (operand instanceof Tensor && !allowed.includes(operand.dtype))
      throw new ShapeError(`${name}: takes ${allowed.join(' or ')}, not ${operand.dtype}`)
  }
  const a = first instanceof Tensor ? first : scalar(name, first, dtype)
  const b = second instanceof Tensor ? second : scalar(name, second, dtype)
  if (a.dtype !== b.dtype) {
    throw new ShapeError(
      `${name}: dtypes ${a.dtype} and ${b.dtype} differ; convert one with toFloat() or toInt()`,
    )
  }
  const shape = broadcastShapes(name, a.shape, b.shape)
  const simple = simplify(name, a, b)
  if (simple) return simple.broadcastTo(shape)
  const inputs = [a.broadcastTo(shape), b.broadcastTo(shape)]
  return node({ kind: 'binary', name }, inputs, shape, comparisons.includes(name) ? 'bool' : dtype)
}

/** Identities that gradients produce. Only those that hold to the last bit: x + 0 is not x where x is -0. */
function simplify(name: BinaryName, a: Tensor, b: Tensor): Tensor | undefined {
  const x = constantValue(a)
  const y = constantValue(b)
  if (x === undefined && y === undefined) return undefined
  const isInt = a.dtype === 'int32'
  switch (name) {
    case 'multiply':
      if (x === 1) return b
      if (y === 1) return a
      // The product or sum of two float32 numbers in float64 rounds to the right float32.
      if (x !== undefined && y !== undefined) return constant(isInt ? Math.imul(x, y) : x * y, a.dtype)
      return undefined
    case 'add':
      if (isInt ? x === 0 : Object.is(x, -0)) return b
      if (isInt ? y === 0 : Object.is(y, -0)) return a
      if (x !== undefined && y !== undefined) return constant(x + y, a.dtype)
      return undefined
    case 'divide':
      // A product is several times faster, but equal only for powers of two.
      return y !== undefined && hasExactReciprocal(y) ? binary('multiply', a, 1 / y) : undefined
    default:
      return undefined
  }
}

/** Whether 1 / value is exact in float32, and neither is subnormal: GPUs may treat subnormals as zero. */
const hasExactReciprocal = (value: number): boolean =>
  Math.abs(value) >= 2 ** -126 && Math.abs(value) <= 2 ** 126 && Number.isInteger(Math.log2(Math.abs(value)))

/** a where the condition holds, b elsewhere. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const dtype = a instanceof Tensor ? a.dtype : b instanceof Tensor ? b.dtype : 'float32'
  const yes = a instanceof Tensor ? a : scalar('where', a, dtype)
  const no = b instanceof Tensor ? b : scalar('where', b, dtype)
  if (condition.dtype !== 'bool')
    throw new ShapeError(`where: the condition must be bool, not ${condition.dtype}`)
  if (yes.dtype !== no.dtype) throw new ShapeError(`where: dtypes ${yes.dtype} and ${no.dtype} differ`)
  const shape = broadcastShapes('where', condition.shape, broadcastShapes('where', yes.shape, no.shape))
  return node(
    { kind: 'where' },
    [condition, yes, no].map(input => input.broadcastTo(shape)),
    shape,
    dtype,
  )
}

function reduce(name: 'sum' | 'max', x: Tensor, axis: number | undefined, keepDims: boolean): Tensor {
  if (x.dtype !== 'float32') throw new ShapeError(`${name}: takes float32, not ${x.dtype}`)
  if (x.size === 0) throw new ShapeError(`${name}: nothing to reduce in shape ${showShape(x.shape)}`)
  const { shape } = x
  if (axis === undefined) {
    if (shape.length === 0) return x
    const rows = reduce(name, x, -1, false)
    if (rows.size === 1) return rows.reshape(...(keepDims ? shape.map(() => 1) : []))
    const all = name === 'sum' ? sumRows(rows.reshape(-1, 1)) : reduce(name, rows.reshape(-1), 0, false)
    return all.reshape(...(keepDims ? shape.map(() => 1) : []))
  }
  const index = axisIndex(name, shape, axis)
  const kept = shape.flatMap((extent, i) => (i !== index ? [extent] : keepDims ? [1] : []))
  const last = shape.length - 1
  if (shape[index] === 1) return x.reshape(...kept)
  if (index === last) {
    return node({ kind: 'reduce', name }, [x], [...shape.slice(0, -1), 1], 'float32').reshape(...kept)
  }
  // A sum over the leading axis: the others become one long row.
  if (index === 0 && name === 'sum') return sumRows(x.reshape(shape[0], -1)).reshape(...kept)
  return reduce(name, x.transpose(index, last), -1, true)
    .transpose(index, last)
    .reshape(...kept)
}

/** Sum over all axes but the last: [..., n] to [n]. */
export function sumRows(x: Tensor): Tensor {
  const columns = x.shape[x.shape.length - 1]
  return x.size === columns ? x.reshape(columns) : node({ kind: 'columnSum' }, [x], [columns], 'float32')
}

function matmul(first: Tensor, second: Tensor): Tensor {
  if (first.dtype !== 'float32' || second.dtype !== 'float32') {
    throw new ShapeError(`matmul: takes float32, not ${first.dtype} and ${second.dtype}`)
  }
  const [m, k] = first.shape.slice(-2)
  const [rows, n] = second.shape.slice(-2)
  const lead = first.shape.slice(0, -2)
  const shared = second.shape.length === 2
  if (
    second.shape.length < 2 ||
    first.shape.length < 2 ||
    k !== rows ||
    !(shared || sameShape(lead, second.shape.slice(0, -2)))
  ) {
    throw new ShapeError(
      `matmul: ${showShape(first.shape)} times ${showShape(second.shape)}: the inner extents must be equal, and so must the leading ones`,
    )
  }
  // [..., m, k] x [k, n] is one product over all rows.
  if (shared && lead.length > 0)
    return first
      .reshape(-1, k)
      .matmul(second)
      .reshape(...lead, m, n)
  return product(first, false, second, false)
}

/** The most terms in a product's sums: longer float32 sums lose digits, however they are blocked. */
const longestSum = 2 ** 16

/** The product [..., m, k] x [..., k, n] of two operands, each transposed first if its flag says so. */
export function product(a: Tensor, transposeA: boolean, b: Tensor, transposeB: boolean): Tensor {
  const [rowsA, columnsA] = a.shape.slice(-2)
  const [rowsB, columnsB] = b.shape.slice(-2)
  const k = transposeA ? rowsA : columnsA
  if (k > longestSum) {
    const pieces = Math.ceil(k / longestSum)
    const piece = (operand: Tensor, axis: number, i: number) =>
      operand.slice(axis, Math.floor((i * k) / pieces), Math.floor(((i + 1) * k) / pieces))
    const products = Array.from({ length: pieces }, (_, i) => {
      const [left, right] = [piece(a, transposeA ? -2 : -1, i), piece(b, transposeB ? -1 : -2, i)]
      const part = product(left, transposeA, right, transposeB)
      return part.reshape(1, ...part.shape)
    })
    return concat(products, 0).sum(0)
  }
  const shape = [...a.shape.slice(0, -2), transposeA ? columnsA : rowsA, transposeB ? rowsB : columnsB]
  return node({ kind: 'matmul', transposeA, transposeB }, [a, b], shape, 'float32')
}

function slice(x: Tensor, axis: number, start: number, end: number): Tensor {
  const { shape } = x
  if (!(
    Number.isInteger(start) &&
    Number.isInteger(end) &&
    0 <= start &&
    start <= end &&
    end <= shape[axis]
  )) {
    throw new ShapeError(`slice: ${start} to ${end} does not lie within axis ${axis} of ${showShape(shape)}`)
  }
  if (start === 0 && end === shape[axis]) return x
  const bypassed = new Set<Tensor>()
  const known = new Map<string, Tensor>()
  const value = recursive<Slice, Tensor>(part => sinkSlice(part, bypassed, known), { x, axis, start, end })
  return value.inputs[0] === x ? value : plainSlice(x, { axis, start, end }, { value, bypassed })
}

/** The elements start, ..., end - 1 along an axis. */
interface SliceRange {
  readonly axis: number
  readonly start: number
  readonly end: number
}

const plainSlice = (x: Tensor, { axis, start, end }: SliceRange, sunk?: SunkSlice): Tensor =>
  node({ kind: 'slice', axis, start }, [x], withExtent(x.shape, axis, end - start), x.dtype, sunk)

const withExtent = (shape: Shape, axis: number, extent: number): Shape =>
  shape.map((other, i) => (i === axis ? extent : other))

/** A slice of a tensor. */
interface Slice extends SliceRange {
  readonly x: Tensor
}

/**
 * Sinks a slice of x: computes it from slices of x's inputs, and those from slices of theirs, as far as operations allow.
 * Called by recursive(). Collects the nodes that it slices or makes in `bypassed`.
 */
function* sinkSlice(
  { x, ...range }: Slice,
  bypassed: Set<Tensor>,
  known: Map<string, Tensor>,
): Generator<Slice, Tensor, Tensor> {
  const { axis, start, end } = range
  const { shape, operation, inputs } = x
  if (start === 0 && end === shape[axis]) return x
  const key = `${x.id},${axis},${start},${end}`
  const found = known.get(key)
  if (found) return found
  const sliced = withExtent(shape, axis, end - start)
  let result: Tensor | undefined
  switch (operation.kind) {
    case 'unary':
    case 'binary':
    case 'where': {
      const parts: Tensor[] = []
      for (const input of inputs) parts.push(yield { x: input, ...range })
      result = withOriginOf([x], () => node(operation, parts, sliced, x.dtype))
      break
    }
    case 'broadcast': {
      const [inner] = inputs
      const innerAxis = axis - shape.length + inner.shape.length
      const fixed = innerAxis < 0 || inner.shape[innerAxis] === 1
      const part = fixed ? inner : yield { x: inner, axis: innerAxis, start, end }
      result = part.broadcastTo(sliced)
      break
    }
    case 'concat': {
      if (operation.axis !== axis) break
      let offset = 0
      for (const input of inputs) {
        const after = offset + input.shape[axis]
        if (start >= offset && end <= after) {
          result = yield { x: input, axis, start: start - offset, end: end - offset }
          break
        }
        offset = after
      }
      break
    }
    case 'slice': {
      if (x.sunk) {
        for (const tensor of x.sunk.bypassed) bypassed.add(tensor)
        result = yield { x: x.sunk.value, ...range }
      } else if (operation.axis === axis) {
        result = yield { x: inputs[0], axis, start: start + operation.start, end: end + operation.start }
      }
      break
    }
    case 'input':
    case 'variable':
    case 'constant':
    case 'iota':
    case 'reduce':
    case 'columnSum':
    case 'matmul':
    case 'reshape':
    case 'transpose':
    case 'gather':
    case 'scatterAdd':
    case 'attention':
    case 'attentionGradient':
    case 'element':
      break
    default:
      operation satisfies never
  }
  result ??= plainSlice(x, range)
  bypassed.add(x).add(result)
  known.set(key, result)
  return result
}

/** Joins tensors along an axis. Their other extents must be equal. */
export function concat(tensors: readonly Tensor[], axis = -1): Tensor {
  const [first] = tensors
  if (!first) throw new ShapeError('concat: no tensors')
  const index = axisIndex('concat', first.shape, axis)
  for (const { shape, dtype } of tensors) {
    const agree =
      shape.length === first.shape.length &&
      shape.every((extent, i) => i === index || extent === first.shape[i])
    if (!agree || dtype !== first.dtype) {
      throw new ShapeError(
        `concat: ${first.dtype} ${showShape(first.shape)} and ${dtype} ${showShape(shape)} differ in more than axis ${axis}`,
      )
    }
  }
  const parts = tensors.filter(tensor => tensor.shape[index] > 0)
  if (parts.length === 1) return parts[0]
  const extent = parts.reduce((sum, { shape }) => sum + shape[index], 0)
  const joined = first.shape.map((size, i) => (i === index ? extent : size))
  return node({ kind: 'concat', axis: index }, parts, joined, first.dtype)
}
