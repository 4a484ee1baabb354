import type { Backend, Executable } from '../../runtime/backend.ts'
import { Buffer, type Instruction, type Matrix, type Program } from '../../compiler/program.ts'

/** A product that takes longer than this says how fast they are. */
const enoughMilliseconds = 5
const [smallest, largest] = [256, 4096]

/**
 * GFLOP/s of a large square product: the size doubles until one takes long enough. Its operands are as the network's
 * are, f16 where the backend stores those so. hasTimes: whether kernels' own times are to be had; else what is on the way
 * to the GPU and back counts too.
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

/** Milliseconds of the faster product of those that read what a product wrote. */
async function kernelTime(executable: Executable, x: Float32Array): Promise<number> {
  const steps = await executable.profile([x])
  const products = steps.filter(({ flops }) => flops > 0)
  return Math.min(...products.slice(1).map(({ milliseconds }) => milliseconds))
}

/** Milliseconds of one of three products that run one after the other. */
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

/** x·x, its square, and the square of that again. */
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

/** Numbers that stay as large when the matrix is squared; zeros would take less power, and be faster. */
function noise(size: number): Float32Array {
  const scale = Math.sqrt(12 / size)
  const block = Float32Array.from({ length: 4099 }, () => (Math.random() - 0.5) * scale)
  return Float32Array.from({ length: size * size }, (_, i) => block[i % block.length])
}
