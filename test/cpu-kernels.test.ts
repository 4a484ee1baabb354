import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Kernel } from '../engine/cpu/kernel.ts'
import { compileOptimized, enableRevectorizer } from '../engine/cpu/probe.ts'
import { matmulKernel, matmulPlan, type MicroKernel, packedFloats, packKernel } from '../engine/cpu/matmul.ts'

// Every kernel beside plain JavaScript in doubles. Run again with HLB_SIMD=128 to test without AVX2.
enableRevectorizer()
const { default: loadWabt } = await import('wabt')
const wabt = await loadWabt()

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
    const text = `(module (memory (import "m" "m") 1 65536 shared) ${kernel.wat}
      (export "run" (func $${kernel.name})))`
    const features = { simd: true, relaxed_simd: true, threads: true }
    const bytes = wabt.parseWat('kernel', text, features).toBinary({}).buffer
    const { exports } = new WebAssembly.Instance(compileOptimized(new Uint8Array(bytes)), {
      m: { m: this.memory },
    })
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
  residual: boolean
  batch: number
  plan?: { kBlock: number; rowBlock: number; columnBlock: number }
}

function testProduct(product: Product, tile: MicroKernel): void {
  const { m, n, k, transposeA, transposeB, residual, batch } = product
  const what = JSON.stringify([product, tile])
  const machine = new Machine()
  const plan = product.plan ?? matmulPlan(m, n, k, transposeA, tile, 4)
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
        let sum = residual ? from[(q * m + i) * rowStrideR + j] : 0
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
  const matmul = matmulKernel(
    {
      m,
      n,
      k,
      transposeA,
      rowStrideA,
      rowStrideC,
      residual: residual ? { rowStride: rowStrideR, batchStride: m * rowStrideR } : undefined,
      batch: { count: batch, strideA: rowsA * rowStrideA, strideC: m * rowStrideC },
    },
    plan,
    tile,
  )
  machine.run(pack, b, packed)
  machine.run(matmul, a, packed, c, ...(residual ? [from] : []))
  assertClose(c, want, what)
}

for (const tile of tiles) {
  test(`matrix products, tile ${tile.rows}x${tile.columns}${tile.fma ? '' : ' without FMA'}`, () => {
    const all = { transposeA: false, transposeB: false, residual: false, batch: 1 }
    testProduct({ ...all, m: 48, n: 32, k: 64 }, tile)
    testProduct({ ...all, m: 1, n: 1, k: 1 }, tile)
    for (const transposeA of [false, true]) {
      for (const transposeB of [false, true]) {
        for (const residual of [false, true]) {
          const flags = { transposeA, transposeB, residual }
          testProduct({ ...flags, batch: 1, m: 101, n: 67, k: 401 }, tile)
          testProduct({ ...flags, batch: 3, m: 13, n: 7, k: 10 }, tile)
          const plan = { kBlock: 12, rowBlock: 10, columnBlock: 32 }
          testProduct({ ...flags, batch: 2, m: 25, n: 80, k: 30, plan }, tile)
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
  const shape = { m, n, k, transposeA: false, rowStrideA: k, rowStrideC: n, residual: { rowStride: n } }
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
})
