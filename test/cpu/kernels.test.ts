import assert from 'node:assert/strict'
import { test } from 'node:test'
import { attentionBackward } from '../../engine/cpu/kernels/attention/backward.ts'
import { attentionForward } from '../../engine/cpu/kernels/attention/forward.ts'
import type { Kernel } from '../../engine/cpu/kernels/kernel.ts'
import { compileOptimized, isRevectorizing } from '../../engine/cpu/runtime/flags.js'
import { chooseMicroKernel } from '../../engine/cpu/runtime/probe.ts'
import { matmulKernel } from '../../engine/cpu/kernels/matmul/matmul.ts'
import { fewRows, matrixVectorKernel } from '../../engine/cpu/kernels/matmul/matrix-vector.ts'
import type { MicroKernel } from '../../engine/cpu/kernels/matmul/micro-kernel.ts'
import { packKernel, packedFloats } from '../../engine/cpu/kernels/matmul/packing.ts'
import { type Tiling, chooseTiling } from '../../engine/cpu/kernels/matmul/tiling.ts'

// Every kernel beside plain JavaScript in doubles. Run again with HLB_SIMD=128 to test without AVX2.
isRevectorizing()
const { default: loadWabt } = await import('wabt')
const wabt = await loadWabt()

function assemble(wat: string): WebAssembly.Module {
  const features = { simd: true, relaxed_simd: true, threads: true, bulk_memory: true }
  const { buffer } = wabt.parseWat('kernel', wat, features).toBinary({})
  return compileOptimized(new Uint8Array(buffer))
}

const tiles: MicroKernel[] = [
  { rows: 6, columns: 16, fma: true },
  { rows: 6, columns: 8, fma: true },
  { rows: 8, columns: 8, fma: false },
]

/** A memory with a bump allocator, and the means to run kernels in it. */
class Machine {
  readonly memory = new WebAssembly.Memory({ initial: 1024, maximum: 1024, shared: true })
  readonly floats = new Float32Array(this.memory.buffer)
  private top = 64

  /** Random floats at an address that is only 4-byte aligned, between guards. */
  random(count: number): Float32Array {
    const array = this.floats.subarray(this.top + 1, this.top + 1 + count)
    for (let i = 0; i < count; i++) array[i] = Math.random() * 2 - 1
    this.top += count + 16 + (-count & 15)
    assert(this.top < this.floats.length, 'the test needs more memory')
    return array
  }

  /** Runs all items of a kernel, last first. */
  run(kernel: Kernel, ...operands: Float32Array[]): void {
    const module = assemble(`(module (memory (import "env" "memory") 1 65536 shared) ${kernel.wat}
      (export "run" (func $${kernel.name})))`)
    const { exports } = new WebAssembly.Instance(module, { env: { memory: this.memory } })
    const pointers = this.random(operands.length)
    new Int32Array(this.memory.buffer, pointers.byteOffset).set(operands.map(operand => operand.byteOffset))
    const scratch = this.random(kernel.scratchBytes / 4 + 32)
    const address = (scratch.byteOffset + 63) & -64
    const guard = (address + kernel.scratchBytes) / 4
    const before = this.floats[guard]
    const run = exports.run as (pointers: number, item: number, scratch: number) => void
    for (let item = kernel.items - 1; item >= 0; item--) run(pointers.byteOffset, item, address)
    assert.equal(this.floats[guard], before, `${kernel.name} writes past its scratch memory`)
  }
}

/** Asserts that got is want up to float32 rounding, relative to the largest element. */
function assertClose(got: ArrayLike<number>, want: ArrayLike<number>, what: string, tolerance = 1e-5): void {
  let scale = 1e-3
  for (let i = 0; i < want.length; i++) scale = Math.max(scale, Math.abs(want[i]))
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i] - want[i])
    // Also refuses NaN.
    if (!(error <= tolerance * scale)) assert.fail(`${what}: element ${i} is ${got[i]}, not ${want[i]}`)
  }
}

interface Product {
  m: number
  n: number
  k: number
  transposeA: boolean
  transposeB: boolean
  addend: boolean
  batch: number
  plan?: Tiling
}

function testProduct(product: Product, tile: MicroKernel): void {
  const { m, n, k, transposeA, transposeB, addend, batch } = product
  const what = JSON.stringify([product, tile])
  const machine = new Machine()
  const plan = product.plan ?? chooseTiling({ m, n, k, transposeA, transposeB, batch, usesOfB: 1 }, tile, 4)
  const [rowsA, columnsA] = transposeA ? [k, m] : [m, k]
  const [rowsB, columnsB] = transposeB ? [n, k] : [k, n]
  // Every matrix is a view into a wider one.
  const [rowStrideA, rowStrideB, rowStrideC, rowStrideR] = [columnsA + 3, columnsB + 1, n + 5, n + 2]
  const a = machine.random(batch * rowsA * rowStrideA)
  const b = machine.random(batch * rowsB * rowStrideB)
  const c = machine.random(batch * m * rowStrideC)
  const from = machine.random(batch * m * rowStrideR)
  const packed = machine.random(batch * packedFloats(k, n, tile))
  const want = Float64Array.from(c)
  for (let q = 0; q < batch; q++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = addend ? from[(q * m + i) * rowStrideR + j] : 0
        for (let p = 0; p < k; p++) {
          const [ra, ca] = transposeA ? [p, i] : [i, p]
          const [rb, cb] = transposeB ? [j, p] : [p, j]
          sum += a[(q * rowsA + ra) * rowStrideA + ca] * b[(q * rowsB + rb) * rowStrideB + cb]
        }
        want[(q * m + i) * rowStrideC + j] = sum
      }
    }
  }
  const pack = packKernel(
    {
      k,
      n,
      rowStride: rowStrideB,
      transposed: transposeB,
      batch: { count: batch, stride: rowsB * rowStrideB },
    },
    plan.kBlock,
    transposeB ? 2 * tile.columns : plan.kBlock,
    tile,
  )
  const shape = {
    m,
    n,
    k,
    transposeA,
    rowStrideA,
    rowStrideC,
    addend: addend ? { rowStride: rowStrideR, batchStride: m * rowStrideR } : undefined,
  }
  const strides = { count: batch, strideA: rowsA * rowStrideA, strideC: m * rowStrideC }
  const before = c.slice()
  machine.run(pack, b, packed)
  const others = addend ? [from] : []
  machine.run(matmulKernel({ ...shape, batch: strides }, plan, tile), a, packed, c, ...others)
  assertClose(c, want, what)

  const sums = c.slice()
  c.set(before)
  const unpacked = {
    unpackedB: { rowStride: rowStrideB, transposed: transposeB },
    batch: { ...strides, strideB: rowsB * rowStrideB },
  }
  machine.run(matmulKernel({ ...shape, ...unpacked }, plan, tile), a, b, c, ...others)
  assert.deepEqual(c, sums, `${what}, items packing B`)
  if (m > fewRows || transposeA) return
  const results = [1, 3, 64].map(threads => {
    const vector = matrixVectorKernel(
      { ...shape, transposeB, rowStrideB, batch: unpacked.batch },
      threads,
      tile.fma,
    )
    c.set(before)
    machine.run(vector, a, b, c, ...others)
    return c.slice()
  })
  for (const result of results) {
    assertClose(result, want, `a matrix-vector kernel's ${what}`)
    assert.deepEqual(result, results[0], `the number of threads changes ${what}`)
  }
}

for (const tile of tiles) {
  test(`matrix products, tile ${tile.rows}x${tile.columns}${tile.fma ? '' : ' without FMA'}`, () => {
    const all = { transposeA: false, transposeB: false, addend: false, batch: 1 }
    testProduct({ ...all, m: 48, n: 32, k: 64 }, tile)
    testProduct({ ...all, m: 1, n: 1, k: 1 }, tile)
    for (const transposeA of [false, true]) {
      for (const transposeB of [false, true]) {
        for (const addend of [false, true]) {
          const flags = { transposeA, transposeB, addend }
          testProduct({ ...flags, batch: 1, m: 101, n: 67, k: 401 }, tile)
          testProduct({ ...flags, batch: 3, m: 13, n: 7, k: 10 }, tile)
          for (const [m, n, k] of [
            [1, 403, 131],
            [2, 130, 96],
            [3, 9, 5],
            [4, 67, 43],
          ]) {
            testProduct({ ...flags, batch: 1, m, n, k }, tile)
            testProduct({ ...flags, batch: 3, m, n: 1 + (n % 16), k: 1 + (k % 16) }, tile)
          }
          const plan = { kBlock: 12, rowBlock: 10, columnBlock: 32 }
          testProduct({ ...flags, batch: 2, m: 25, n: 80, k: 30, plan }, tile)
          const inSteps = { kBlock: 13, rowBlock: 20, columnBlock: 48, rowStep: tile.rows }
          testProduct({ ...flags, batch: 1, m: 47, n: 91, k: 30, plan: inSteps }, tile)
        }
      }
    }
  })
}

test('a product may accumulate in place, and is the same whatever its row and column blocks', () => {
  const [tile] = tiles
  const [m, n, k] = [50, 70, 90]
  const machine = new Machine()
  const [a, b, packed] = [
    machine.random(m * k),
    machine.random(k * n),
    machine.random(packedFloats(k, n, tile)),
  ]
  const shape = { m, n, k, transposeA: false, rowStrideA: k, rowStrideC: n, addend: { rowStride: n } }
  machine.run(packKernel({ k, n, rowStride: n, transposed: false }, 40, 8, tile), b, packed)
  const start = machine.random(m * n)
  const results = [
    [7, 16],
    [48, 32],
    [64, 80],
  ].map(([rowBlock, columnBlock]) => {
    const c = machine.random(m * n)
    c.set(start)
    machine.run(matmulKernel(shape, { kBlock: 40, rowBlock, columnBlock }, tile), a, packed, c, c)
    return c
  })
  assert.deepEqual(results[1], results[0])
  assert.deepEqual(results[2], results[0])
  for (const transposeB of [false, true]) {
    const few = { ...shape, m: 3, transposeB, rowStrideB: transposeB ? k : n }
    const [c, apart] = [start.slice(), start.subarray(0, 3 * n)].map(values => {
      const array = machine.random(3 * n)
      array.set(values.subarray(0, 3 * n))
      return array
    })
    const to = machine.random(3 * n)
    const kernel = matrixVectorKernel(few, 2, true)
    machine.run(kernel, a, b, c, c)
    machine.run(kernel, a, b, to, apart)
    assert.deepEqual(c, to)
  }
})

interface Heads {
  batch: number
  heads: number
  length: number
  keyDim: number
  valueDim: number
  slope: boolean
  groups?: number
}

/** The views of one attention's operands: everything of q, k, v in one wide buffer, as a network has them. */
function attentionStrides({ heads, keyDim, valueDim }: Heads) {
  const wide = heads * (2 * keyDim + valueDim) + 3
  return { wide, narrow: heads * valueDim + 2, key: heads * keyDim, value: 2 * heads * keyDim }
}

type Numbers = Float32Array | Float64Array

/** softmax(scale * q kT + slope * (j - i)) and its product with v, for one head, in doubles. */
function attentionReference(
  shape: Heads,
  scale: number,
  qkv: Numbers,
  slopes: Numbers,
  b: number,
  h: number,
) {
  const { length, keyDim, valueDim } = shape
  const { wide, key, value } = attentionStrides(shape)
  const at = (part: number, i: number, d: number, dim: number) => (b * length + i) * wide + part + h * dim + d
  const weights: Float64Array[] = []
  const out: Float64Array[] = []
  const logSumExp = new Float64Array(length)
  for (let i = 0; i < length; i++) {
    const scores = Float64Array.from({ length: i + 1 }, (_, j) => {
      let dot = 0
      for (let d = 0; d < keyDim; d++) dot += qkv[at(0, i, d, keyDim)] * qkv[at(key, j, d, keyDim)]
      return scale * dot + (shape.slope ? slopes[h] * (j - i) : 0)
    })
    const most = scores.reduce((a, score) => Math.max(a, score), -Infinity)
    logSumExp[i] = most + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0))
    weights.push(scores.map(score => Math.exp(score - logSumExp[i])))
    out.push(new Float64Array(valueDim))
    for (let j = 0; j <= i; j++) {
      for (let d = 0; d < valueDim; d++) out[i][d] += weights[i][j] * qkv[at(value, j, d, valueDim)]
    }
  }
  return { weights, out, logSumExp, at, key, value }
}

function testAttention(shape: Heads, tile: MicroKernel): void {
  const { batch, heads, length, keyDim, valueDim, slope } = shape
  const what = JSON.stringify([shape, tile])
  const { wide, narrow, key, value } = attentionStrides(shape)
  const scale = 1 / Math.sqrt(keyDim)
  const machine = new Machine()
  const rows = batch * length
  const qkv = machine.random(rows * wide)
  const slopes = machine.random(heads)
  // Small enough for scores that float32 holds to about 1e-6.
  slopes.forEach((slope, h) => (slopes[h] = slope / 100))
  const out = machine.random(rows * narrow)
  const logSumExp = machine.random(batch * heads * length)
  const dOut = machine.random(rows * narrow)
  const dqkv = machine.random(rows * wide)
  const dSlope = machine.random(batch * heads)
  const wantOut = Float64Array.from(out)
  const wantLogSumExp = Float64Array.from(logSumExp)
  const wantGradient = Float64Array.from(dqkv)
  const wantDSlope = new Float64Array(batch * heads)
  let sizeOfDSlope = 1e-3
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const reference = attentionReference(shape, scale, qkv, slopes, b, h)
      const { at, weights } = reference
      wantLogSumExp.set(reference.logSumExp, (b * heads + h) * length)
      for (const [part, dim] of [
        [0, keyDim],
        [key, keyDim],
        [value, valueDim],
      ]) {
        for (let i = 0; i < length; i++) wantGradient.fill(0, at(part, i, 0, dim), at(part, i, dim, dim))
      }
      for (let i = 0; i < length; i++) {
        const row = (b * length + i) * narrow + h * valueDim
        wantOut.set(reference.out[i], row)
        for (let j = 0; j <= i; j++) {
          let dScore = 0
          for (let d = 0; d < valueDim; d++) {
            dScore += dOut[row + d] * (qkv[at(value, j, d, valueDim)] - reference.out[i][d])
            wantGradient[at(value, j, d, valueDim)] += weights[i][j] * dOut[row + d]
          }
          dScore *= weights[i][j]
          wantDSlope[b * heads + h] += dScore * (j - i)
          sizeOfDSlope += Math.abs(dScore * (j - i))
          for (let d = 0; d < keyDim; d++) {
            wantGradient[at(0, i, d, keyDim)] += scale * dScore * qkv[at(key, j, d, keyDim)]
            wantGradient[at(key, j, d, keyDim)] += scale * dScore * qkv[at(0, i, d, keyDim)]
          }
        }
      }
    }
  }
  const rowStride = { q: wide, k: wide, v: wide, out: narrow }
  const options = { batch, heads, length, keyDim, valueDim, scale, slope, rowStride }
  const inputs = [qkv, qkv.subarray(key), qkv.subarray(value), ...(slope ? [slopes] : [])]
  machine.run(attentionForward(options, tile, shape.groups), ...inputs, out, logSumExp)
  assertClose(out, wantOut, `out of ${what}`)
  assertClose(logSumExp, wantLogSumExp, `logSumExp of ${what}`)
  const gradients = [dqkv, dqkv.subarray(key), dqkv.subarray(value), ...(slope ? [dSlope] : [])]
  const strides = { dOut: narrow, dq: wide, dk: wide, dv: wide }
  machine.run(attentionBackward(options, strides, tile), ...inputs, out, logSumExp, dOut, ...gradients)
  assertClose(dqkv, wantGradient, `gradients of ${what}`)
  // A sum of many terms of both signs: compared with the size of its terms.
  const scaled = (array: Numbers) => Array.from(array, x => x / sizeOfDSlope)
  if (slope) assertClose([...scaled(dSlope), 1], [...scaled(wantDSlope), 1], `dSlope of ${what}`)
}

for (const tile of tiles) {
  test(`attention and its gradients, tile ${tile.rows}x${tile.columns}`, () => {
    testAttention({ batch: 3, heads: 2, length: 33, keyDim: 9, valueDim: 72, slope: true }, tile)
    testAttention(
      { batch: 1, heads: 6, length: 130, keyDim: 16, valueDim: 20, slope: false, groups: 3 },
      tile,
    )
    testAttention({ batch: 2, heads: 1, length: 96, keyDim: 32, valueDim: 48, slope: true, groups: 9 }, tile)
    testAttention({ batch: 1, heads: 1, length: 1201, keyDim: 5, valueDim: 7, slope: true, groups: 2 }, tile)
    for (const length of [1, 2, 7, 8, 9, 49]) {
      testAttention({ batch: 2, heads: 3, length, keyDim: 3, valueDim: 5, slope: true }, tile)
    }
  })
}

test("the gradients that attention's are compared with are those of finite differences", () => {
  const shape = { batch: 1, heads: 1, length: 7, keyDim: 3, valueDim: 2, slope: true }
  const { wide, narrow } = attentionStrides(shape)
  const [tile] = tiles
  const machine = new Machine()
  const qkv = machine.random(shape.length * wide)
  const slopes = machine.random(1)
  const dOut = machine.random(shape.length * narrow)
  const loss = (numbers: Float64Array, slope: Float64Array) => {
    const { out } = attentionReference(shape, 0.5, numbers, slope, 0, 0)
    return out.reduce((sum, row, i) => row.reduce((s, x, d) => s + x * dOut[i * narrow + d], sum), 0)
  }
  const difference = (array: Float64Array, index: number, evaluate: () => number) => {
    const [x, h] = [array[index], 1e-5]
    array[index] = x + h
    const above = evaluate()
    array[index] = x - h
    const below = evaluate()
    array[index] = x
    return (above - below) / (2 * h)
  }
  const [numbers, slope] = [Float64Array.from(qkv), Float64Array.from(slopes)]
  const want = numbers.map((_, index) => difference(numbers, index, () => loss(numbers, slope)))
  const wantDSlope = difference(slope, 0, () => loss(numbers, slope))

  const options = { ...shape, scale: 0.5, rowStride: { q: wide, k: wide, v: wide, out: narrow } }
  const strides = { dOut: narrow, dq: wide, dk: wide, dv: wide }
  const [out, logSumExp] = [machine.random(shape.length * narrow), machine.random(shape.length)]
  const [gradient, dSlope] = [machine.random(shape.length * wide).fill(0), machine.random(1)]
  const parts = (array: Float32Array) => [array, array.subarray(3), array.subarray(6)]
  machine.run(attentionForward(options, tile), ...parts(qkv), slopes, out, logSumExp)
  machine.run(
    attentionBackward(options, strides, tile),
    ...parts(qkv),
    slopes,
    out,
    logSumExp,
    dOut,
    ...parts(gradient),
    dSlope,
  )
  assertClose(gradient, want, 'gradients')
  assertClose(dSlope, [wantDSlope], 'dSlope', 1e-4)
})

test('every candidate for the micro-kernel is right on this machine', async () => {
  const candidates = await chooseMicroKernel(wat => Promise.resolve(assemble(wat)))
  for (const { tile, right, gflops } of candidates) {
    assert(right && gflops > 0, `${tile.rows}x${tile.columns}`)
  }
})
