/** Measures which micro-kernel is the fastest on this machine. */
import { matmulKernel } from '../kernels/matmul/matmul.ts'
import type { MicroKernel } from '../kernels/matmul/micro-kernel.ts'
import { packKernel, packedFloats } from '../kernels/matmul/packing.ts'

/** A micro-kernel's tile, its speed on one thread, and whether its product was right. */
export interface MeasuredTile {
  readonly tile: MicroKernel
  readonly gflops: number
  readonly right: boolean
}

/** Rows and columns. The first two fill the registers of AVX2 (16 of 8 floats) and NEON (32 of 4 floats). */
const tileShapes = [
  [6, 16],
  [8, 12],
  [8, 8],
  [6, 8],
]

/** (func (param v128) (result v128)) with one f32x4.relaxed_madd, which is valid only with relaxed SIMD. */
const relaxedModule = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7b, 1, 0x7b, 3, 2, 1, 0, 10, 13, 1, 11, 0, 0x20, 0,
  0x20, 0, 0x20, 0, 0xfd, 0x85, 0x02, 0x0b,
])

/**
 * Measures tiles that may be the fastest on this machine on the same small product, and checks their results against plain
 * JavaScript. Returns all of them, starting with the fastest one whose product is right. Throws if none is.
 */
export async function chooseMicroKernel(
  assemble: (wat: string) => Promise<WebAssembly.Module>,
): Promise<readonly [MeasuredTile, ...MeasuredTile[]]> {
  const fma = WebAssembly.validate(relaxedModule)
  const [m, n, k] = [48, 96, 256]
  const plan = { kBlock: k, rowBlock: m, columnBlock: n }
  const kernels = tileShapes.map(([rows, columns]) => {
    const tile = { rows, columns, fma }
    const pack = packKernel({ k, n, rowStride: n, transposed: false }, k, k, tile)
    const shape = { m, n, k, transposeA: false, rowStrideA: k, rowStrideC: n }
    return { tile, pack, matmul: matmulKernel(shape, plan, tile) }
  })
  const module = await assemble(`(module (import "env" "memory" (memory 1 65536 shared))
    ${kernels
      .flatMap(({ pack, matmul }) => [pack, matmul])
      .map(({ name, wat }) => `${wat} (export "${name}" (func $${name}))`)
      .join('\n')})`)

  const memory = new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true })
  const { exports } = new WebAssembly.Instance(module, { env: { memory } })
  const floats = new Float32Array(memory.buffer)
  // 96 columns are whole panels for every tile, so all pack to the same size and need no scratch memory.
  const a = 64
  const b = a + m * k
  const packed = b + k * n
  const c = packed + packedFloats(k, n, kernels[0].tile)
  for (let i = a; i < packed; i++) floats[i] = Math.sin(i)
  const run = (name: string, ...operands: number[]) => {
    const kernel = exports[name] as (pointers: number, item: number, scratch: number) => void
    new Int32Array(memory.buffer).set(operands.map(offset => offset * 4))
    kernel(0, 0, 0)
  }
  const isRight = () => {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0
        for (let p = 0; p < k; p++) sum += floats[a + i * k + p] * floats[b + p * n + j]
        if (!(Math.abs(floats[c + i * n + j] - sum) < 1e-4)) return false
      }
    }
    return true
  }
  const best = kernels.map(() => Infinity)
  const right = kernels.map(() => true)
  // Tiles take turns and the best time counts, since something else may use the core for a while.
  for (let round = 0; round < 5; round++) {
    kernels.forEach(({ pack, matmul }, index) => {
      run(pack.name, b, packed)
      for (let repeat = 0; repeat < 16; repeat++) {
        const start = performance.now()
        run(matmul.name, a, packed, c)
        best[index] = Math.min(best[index], performance.now() - start)
      }
      if (round === 0) right[index] = isRight()
    })
  }
  const measured = kernels.map(({ tile }, index) => ({
    tile,
    gflops: (2 * m * n * k) / best[index] / 1e6,
    right: right[index],
  }))
  const [first, ...rest] = measured.sort((x, y) => Number(y.right) - Number(x.right) || y.gflops - x.gflops)
  if (!first.right) throw new Error('No matrix product computes the right result on this machine')
  return [first, ...rest]
}
