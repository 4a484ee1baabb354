// Measures how fast the GPU multiplies matrices.
import type { Backend, Executable } from '../../runtime/backend.ts'
import { Buffer, type Instruction, type Matrix, type Program } from '../../compiler/program.ts'

/** A product that takes longer than this is large enough to measure. */
const enoughMilliseconds = 5
const [smallest, largest] = [256, 4096]

/**
 * GFLOP/s of a large square product. The size doubles until a product takes long enough. Operands have the types that a
 * network's have. hasTimes: whether the GPU measures the times of kernels. Otherwise the way to the GPU and back counts too.
 */
export async function measurePeak(backend: Pick<Backend, 'load'>, hasTimes: boolean): Promise<number> {
  let gflops = 0
  for (let size = smallest; size <= largest; size *= 2) {
    const executable = await backend.load(squares(size), [])
    const milliseconds = await (hasTimes ? kernelTime : wallTime)(executable, noise(size))
    gflops = Math.max(gflops, (2 * size ** 3) / milliseconds / 1e6)
    if (milliseconds > enoughMilliseconds) break
  }
  return gflops
}

/** Milliseconds of the faster of the two products that read another one's result. */
async function kernelTime(executable: Executable, x: Float32Array): Promise<number> {
  const steps = await executable.profile([x])
  const products = steps.filter(({ flops }) => flops > 0)
  return Math.min(...products.slice(1).map(({ milliseconds }) => milliseconds))
}

/** A third of the milliseconds that three products take one after the other. */
async function wallTime(executable: Executable, x: Float32Array): Promise<number> {
  await (
    await executable.run([x])
  ).results
  const start = performance.now()
  await (
    await executable.run([x])
  ).results
  return (performance.now() - start) / 3
}

/** x², x⁴ and x⁸. */
function squares(size: number): Program {
  const x = Array.from({ length: 4 }, () => new Buffer(size * size, 'float32'))
  const matrix = (buffer: Buffer): Matrix => ({
    buffer,
    offset: 0,
    rowStride: size,
    transposed: false,
    batchStride: 0,
  })
  const instructions = x.slice(1).map((result, i): Instruction => {
    const [a, c] = [matrix(x[i]), matrix(result)]
    const work = { kind: 'matmul', batch: 1, m: size, n: size, k: size, a, b: a, c } as const
    return { work, reads: [x[i]], writes: [result], sharesRowBlocks: false }
  })
  const first = { buffer: x[3], offset: 0, shape: [1], strides: [1] }
  return { instructions, inputs: [x[0]], outputs: [first], variables: [] }
}

/** Random numbers, which keep their size when the matrix is squared. With zeros a GPU takes less power and is faster. */
function noise(size: number): Float32Array {
  const scale = Math.sqrt(12 / size)
  const block = Float32Array.from({ length: 4099 }, () => (Math.random() - 0.5) * scale)
  return Float32Array.from({ length: size * size }, (_, i) => block[i % block.length])
}
