import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { GpuError, type OpenDevice, openDevice } from '../engine/gpu/device.ts'
import { type ElementType, type Target, bytesOf, dimensionsOf } from '../engine/gpu/kernel.ts'
import { matmulDispatches } from '../engine/gpu/matmul.ts'
import { type MatmulPlan, matmulPlan } from '../engine/gpu/matmul-plan.ts'
import { nodeGpu } from '../engine/gpu/node.ts'
import { Pipelines } from '../engine/gpu/pipelines.ts'
import { Buffer, type Matmul, type Matrix } from '../engine/program.ts'

// Every form of the matrix product beside plain JavaScript in doubles, in all shapes and types of its operands.

interface Opened extends OpenDevice {
  readonly pipelines: Pipelines
}

const gpu = await nodeGpu()
async function open(options: Parameters<typeof openDevice>[1]): Promise<Opened> {
  const opened = await openDevice(gpu, options)
  return { ...opened, pipelines: new Pipelines(opened.device) }
}

const forms = await Promise.all([
  open({ precision: 'f32' }),
  open({ precision: 'f16', subgroupMatrix: false }).catch(() => undefined),
  open({ precision: 'f16' }).catch(() => undefined),
]).catch(error => {
  if (error instanceof GpuError) return undefined
  throw error
})
const [wide, half, matrices] = forms ?? []
const noMatrices = !matrices?.target.subgroupMatrix
after(() => forms?.forEach(form => form?.device.destroy()))

/** Numbers that repeat from run to run, in -1 ... 1. */
function numbers(count: number, seed: number): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}

interface Case {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly batch?: number
  readonly transposed?: readonly [a: boolean, b: boolean]
  /** Of a, b, c and the residual. */
  readonly types?: readonly [ElementType, ElementType, ElementType, ElementType]
  readonly residual?: 'none' | 'other' | 'c itself' | 'transposed'
  /** Elements between rows, beyond what they need; and before the first. */
  readonly gap?: number
  /** b is the same for all of the batch. */
  readonly sharedB?: boolean
  readonly transposedC?: boolean
}

const described = (given: Case): string => JSON.stringify(given)

/** A matrix with memory of its own. */
function place(rows: number, columns: number, batch: number, transposed: boolean, gap: number): Matrix {
  const [lines, width] = transposed ? [columns, rows] : [rows, columns]
  const rowStride = width + gap
  const batchStride = lines * rowStride + gap
  const buffer = new Buffer(gap + batch * batchStride, 'float32')
  return { buffer, offset: gap, rowStride, transposed, batchStride }
}

const indexOf = ({ offset, rowStride, batchStride, transposed }: Matrix, b: number, r: number, c: number) =>
  offset + b * batchStride + (transposed ? c * rowStride + r : r * rowStride + c)

/**
 * Runs a product. Returns the largest error, relative to sqrt(k) times the largest operands; fails when anything beside c's
 * own elements was changed.
 */
async function errorOf(
  { device, pipelines }: Opened,
  target: Target,
  given: Case,
  planOf?: (work: Matmul) => MatmulPlan,
): Promise<number> {
  const { m, n, k, batch = 1, residual = 'none', gap = 0 } = given
  const [transposeA, transposeB] = given.transposed ?? [false, false]
  const types = given.types ?? ['f32', 'f32', 'f32', 'f32']
  const a = place(m, k, batch, transposeA, gap)
  const b = { ...place(k, n, batch, transposeB, gap), ...(given.sharedB && { batchStride: 0 }) }
  const c = place(m, n, batch, given.transposedC ?? false, gap)
  const sum =
    residual === 'none'
      ? undefined
      : residual === 'c itself'
        ? c
        : place(m, n, batch, residual === 'transposed', gap)
  const work: Matmul = { kind: 'matmul', batch, m, n, k, a, b, c, ...(sum && { residual: sum }) }
  const typeNames = new Map([
    [a.buffer, types[0]],
    [b.buffer, types[1]],
    ...(sum ? [[sum.buffer, types[3]] as const] : []),
    [c.buffer, types[2]],
  ])
  const typeOf = (buffer: Buffer): ElementType => typeNames.get(buffer.root) ?? 'f32'
  const dispatches = matmulDispatches(work, typeOf, target, planOf?.(work))

  // Memory, filled with numbers as they are stored.
  const values = new Map<Buffer, Float64Array>()
  const memory = new Map<Buffer, GPUBuffer>()
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
  for (const buffer of new Set(dispatches.flatMap(({ buffers }) => buffers))) {
    const isHalf = typeOf(buffer) === 'f16'
    const count = isHalf ? Math.ceil(buffer.size / 2) * 2 : buffer.size
    const stored = isHalf ? new Float16Array(count) : new Float32Array(count)
    stored.set(numbers(buffer.size, memory.size + 1))
    const gpuBuffer = device.createBuffer({ size: stored.byteLength, usage })
    device.queue.writeBuffer(gpuBuffer, 0, stored.buffer)
    memory.set(buffer, gpuBuffer)
    values.set(buffer, Float64Array.from(stored))
  }
  const before = (matrix: Matrix) => {
    const found = values.get(matrix.buffer)
    assert(found, 'an operand is not bound')
    return found
  }

  const t0 = performance.now()
  for (const d of dispatches) await pipelines.get(d.kernel)
  console.log('compile', performance.now() - t0)
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  for (const { kernel, buffers, workgroups } of dispatches) {
    const { pipeline, layout } = await pipelines.get(kernel)
    pass.setPipeline(pipeline)
    pass.setBindGroup(
      0,
      device.createBindGroup({
        layout,
        entries: buffers.map((buffer, binding) => {
          const resource = memory.get(buffer)
          assert(resource)
          return { binding, resource: { buffer: resource } }
        }),
      }),
    )
    pass.dispatchWorkgroups(...dimensionsOf(workgroups))
  }
  pass.end()
  const result = memory.get(c.buffer)
  assert(result)
  const readable = device.createBuffer({
    size: result.size,
    usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
  })
  encoder.copyBufferToBuffer(result, 0, readable, 0, result.size)
  device.queue.submit([encoder.finish()])
  await readable.mapAsync(GPUMapMode.READ)
  const bytes = readable.getMappedRange().slice(0)
  const got = Float64Array.from(types[2] === 'f16' ? new Float16Array(bytes) : new Float32Array(bytes))
  for (const buffer of [...memory.values(), readable]) buffer.destroy()

  const [valuesA, valuesB, valuesC] = [a, b, c].map(before)
  const added = sum && before(sum)
  let worst = 0
  const untouched = new Set(valuesC.keys())
  for (let at = 0; at < batch; at++)
    for (let row = 0; row < m; row++)
      for (let column = 0; column < n; column++) {
        let want = sum && added ? added[indexOf(sum, at, row, column)] : 0
        for (let i = 0; i < k; i++)
          want += valuesA[indexOf(a, at, row, i)] * valuesB[indexOf(b, at, i, column)]
        const index = indexOf(c, at, row, column)
        untouched.delete(index)
        const error = Math.abs(got[index] - want)
        worst = Number.isNaN(error) ? Infinity : Math.max(worst, error)
      }
  for (const index of untouched)
    if (index < c.buffer.size) assert.equal(got[index], valuesC[index], `${described(given)} writes beside c`)
  return worst / Math.sqrt(k)
}

const only = process.env.ONLY
test('x', { skip: forms ? false : 'there is no GPU' }, async () => {
  for (const form of [matrices]) {
    if (!form) continue
    const s: ElementType[] = form === wide ? ['f32'] : ['f32', 'f16']
    let i = 0
    for (const [m, n, k] of [
      [1, 1, 1],
      [7, 33, 72],
      [33, 7, 100],
      [72, 100, 257],
      [257, 72, 33],
      [100, 257, 7],
      [128, 64, 64],
      [64, 32, 128],
    ])
      for (const transposed of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const pick = () => s[((i++ * 7) >> 1) % s.length]
        const given: Case = {
          m,
          n,
          k,
          transposed,
          types: [pick(), pick(), pick(), pick()],
          residual: (['none', 'other', 'c itself', 'transposed'] as const)[i % 4],
          batch: 1 + (i % 2),
          gap: [0, 4, 1, 2][(i >> 1) % 4],
        }
        const t = performance.now()
        const plan = matmulPlan
        const w = await errorOf(form, form.target, given)
        console.log(w.toExponential(2), (performance.now() - t).toFixed(0), described(given))
      }
  }
})
