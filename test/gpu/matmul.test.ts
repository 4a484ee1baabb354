import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { GpuError, type OpenDevice, openDevice } from '../../engine/gpu/runtime/device.ts'
import type { ElementType, Target } from '../../engine/gpu/kernels/kernel.ts'
import { dimensionsOf } from '../../engine/gpu/kernels/shader.ts'
import { matmulDispatches } from '../../engine/gpu/kernels/matmul/matmul.ts'
import { type MatmulPlan, type Tile, matmulPlan } from '../../engine/gpu/kernels/matmul/tiling.ts'
import { Pipelines } from '../../engine/gpu/runtime/pipelines.ts'
import { Buffer, type Matmul, type Matrix } from '../../engine/compiler/program.ts'
import { testGpu } from '../support/strict-gpu.ts'

// Every form of the matrix product beside plain JavaScript in doubles, in all shapes and types of its operands.

interface Opened extends OpenDevice {
  readonly pipelines: Pipelines
}

async function open(options: Parameters<typeof openDevice>[1]): Promise<Opened | undefined> {
  try {
    const opened = await openDevice(await testGpu(), options)
    return { ...opened, pipelines: new Pipelines(opened.device) }
  } catch (error) {
    if (error instanceof GpuError) return undefined
    throw error
  }
}

const wide = await open({ precision: 'f32' })
const half = wide && (await open({ precision: 'f16', subgroupMatrix: false }))
const matrices = half?.target.subgroups && (await open({ precision: 'f16' }))
after(() => [wide, half, matrices].forEach(form => form?.device.destroy()))

const forms = {
  'in float32': wide,
  'of f16, in float32': half,
  'in subgroup matrices': matrices?.target.subgroupMatrix ? matrices : undefined,
}
const skip = (form: Opened | undefined) => (form ? false : 'no GPU that can do it')

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
  /** a and c are parts of one buffer. */
  readonly together?: boolean
  /** Operands are within ±scale; 1 by default. */
  readonly scale?: number
}

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

/** A product of plain matrices, to plan for. */
function productOf(m: number, n: number, k: number): Matmul {
  const [a, b, c] = [place(m, k, 1, false, 0), place(k, n, 1, false, 0), place(m, n, 1, false, 0)]
  return { kind: 'matmul', batch: 1, m, n, k, a, b, c }
}

/** How a product is to be made, where that is not as the device would have it. */
interface How {
  readonly target?: Target
  readonly plan?: (work: Matmul) => MatmulPlan
}

/**
 * Runs a product and returns all of c's memory. Fails when a sum is further off than types allow, or when anything beside
 * c's own elements was changed.
 */
async function check(
  { device, pipelines, ...opened }: Opened,
  given: Case,
  how: How = {},
): Promise<Float64Array> {
  const target = how.target ?? opened.target
  const { m, n, k, batch = 1, residual = 'none', gap = 0, scale = 1 } = given
  const [transposeA, transposeB] = given.transposed ?? [false, false]
  const types = given.types ?? ['f32', 'f32', 'f32', 'f32']
  const alone = place(m, k, batch, transposeA, gap)
  const b = { ...place(k, n, batch, transposeB, gap), ...(given.sharedB && { batchStride: 0 }) }
  const ownC = place(m, n, batch, given.transposedC ?? false, gap)
  const end = Math.ceil(alone.buffer.size / 4) * 4
  const common = given.together && new Buffer(end + ownC.buffer.size, 'float32')
  const a = common ? { ...alone, buffer: common } : alone
  const c = common ? { ...ownC, buffer: common, offset: ownC.offset + end } : ownC
  const sum =
    residual === 'none'
      ? undefined
      : residual === 'c itself'
        ? c
        : place(m, n, batch, residual === 'transposed', gap)
  const work: Matmul = { kind: 'matmul', batch, m, n, k, a, b, c, ...(sum && { addend: sum }) }
  const typeNames = new Map([
    [a.buffer, types[0]],
    [b.buffer, types[1]],
    ...(sum ? [[sum.buffer, types[3]] as const] : []),
    [c.buffer, types[2]],
  ])
  const typeOf = (buffer: Buffer): ElementType => typeNames.get(buffer.allocation) ?? 'f32'
  const dispatches = matmulDispatches(work, typeOf, target, how.plan?.(work))

  // Memory, filled with numbers as they are stored.
  const values = new Map<Buffer, Float64Array>()
  const memory = new Map<Buffer, GPUBuffer>()
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
  for (const buffer of new Set(dispatches.flatMap(({ buffers }) => buffers))) {
    const isHalf = typeOf(buffer) === 'f16'
    const count = isHalf ? Math.ceil(buffer.size / 2) * 2 : buffer.size
    const stored = isHalf ? new Float16Array(count) : new Float32Array(count)
    stored.set(numbers(buffer.size, memory.size + 1).map(number => number * scale))
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
  let largest = 0
  const untouched = new Set(valuesC.keys())
  for (let at = 0; at < batch; at++)
    for (let row = 0; row < m; row++)
      for (let column = 0; column < n; column++) {
        let want = sum && added ? added[indexOf(sum, at, row, column)] : 0
        for (let i = 0; i < k; i++)
          want += valuesA[indexOf(a, at, row, i)] * valuesB[indexOf(b, at, i, column)]
        const index = indexOf(c, at, row, column)
        untouched.delete(index)
        const limit = types[2] === 'f16' ? 65504 : Infinity
        const error = Math.abs(got[index] - Math.max(-limit, Math.min(limit, want)))
        worst = Number.isNaN(error) ? Infinity : Math.max(worst, error)
        largest = Math.max(largest, Math.abs(want))
      }
  // Operands are within ±1. Each one that is rounded to f16 is off by 2^-12 of itself on average, and so are the products.
  const rounds = target.subgroupMatrix ? [types[0], types[1]].filter(type => type === 'f32').length : 0
  const bound =
    scale ** 2 * Math.sqrt(k) * (1e-5 + rounds * 2 ** -11) + (types[2] === 'f16' ? largest * 2 ** -11 : 0)
  const what = JSON.stringify(given)
  if (process.env.VERBOSE)
    console.log(
      (worst / Math.sqrt(k)).toExponential(1),
      (worst / bound).toFixed(2),
      dispatches[0].kernel.name,
      what,
    )
  assert(worst <= bound, `off by ${worst}, more than ${bound}: ${what}`)
  for (const index of untouched)
    if (index < c.buffer.size) assert.equal(got[index], valuesC[index], `writes beside c: ${what}`)
  return got
}

const orders = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
] as const
const residuals = ['none', 'other', 'c itself', 'transposed'] as const

/** Goes through all of some values again and again, in steps that others do not take. */
const cycle = <T>(values: readonly T[], i: number, period = 1): T =>
  values[Math.floor(i / period) % values.length]

for (const [name, form] of Object.entries(forms)) {
  const stored: readonly ElementType[] = form === wide ? ['f32'] : ['f32', 'f16']
  /** Types of a, b, c and the residual: all in sixteen. */
  const typesOf = (i: number): Case['types'] => [
    cycle(stored, i),
    cycle(stored, i, 2),
    cycle(stored, i, 4),
    cycle(stored, i, 8),
  ]
  const each = (i: number): Pick<Case, 'types' | 'residual'> => {
    const residual = cycle(residuals, i * 5 + (i >> 2))
    const types = typesOf(i * 7)
    if (!types || residual !== 'c itself') return { residual, types }
    return { residual, types: [types[0], types[1], types[2], types[2]] }
  }

  const hasMatrices = form?.target.subgroupMatrix !== undefined

  test(`products ${name}: odd shapes, all orders and types, with gaps`, { skip: skip(form) }, async () => {
    if (!form) return
    const shapes = [
      [7, 33, 72],
      [33, 7, 100],
      [72, 100, 33],
      [100, 257, 7],
    ]
    // Here as below: what is the same code in another form is tried less, for drivers that take long to compile.
    for (let i = 0; i < (form === wide ? 16 : form === half ? 8 : 6); i++) {
      const [m, n, k] = cycle(shapes, i)
      const transposed = cycle(orders, i + (i >> 2))
      const [batch, gap] = [1 + ((i >> 1) % 2), cycle([0, 1, 4, 2], i, 3)]
      await check(form, { m, n, k, transposed, batch, gap, ...each(i) })
    }
  })

  test(`products ${name}: tiles of every size`, { skip: skip(form) }, async () => {
    if (!form) return
    const kind = hasMatrices ? 'matrices' : 'numbers'
    const sizes = [
      [64, 64],
      [128, 128],
      ...(form === wide
        ? [
            [32, 32],
            [128, 64],
            [64, 128],
            [64, 32],
            [32, 64],
          ]
        : []),
    ]
    for (const [i, [rows, columns]] of sizes.entries()) {
      const depths = hasMatrices ? [16] : [16, 8]
      const tile: Tile = { rows, columns, depth: cycle(depths, i), stages: i % 3 === 0 ? 1 : 2 }
      const plan = (): MatmulPlan => ({ form: kind, tile, slices: 1, sliceDepth: 48 })
      // Whole tiles, or one more that is not.
      const [m, n, k] = i % 2 === 0 ? [rows, columns, 48] : [rows + 8, columns + 24, 40]
      await check(form, { m, n, k, transposed: cycle(orders, i), ...each(i) }, { plan })
    }
  })

  test(`products ${name}: k in slices`, { skip: skip(form) }, async () => {
    if (!form) return
    const sliced =
      (slices: number, sliceDepth: number) =>
      (work: Matmul): MatmulPlan => ({ ...matmulPlan(work, form.target), slices, sliceDepth })
    await check(form, { m: 40, n: 33, k: 100, batch: 2, gap: 4, ...each(2) }, { plan: sliced(2, 64) })
    await check(form, { m: 32, n: 32, k: 72, transposed: [true, false], ...each(3) }, { plan: sliced(2, 64) })
    const long: Case = { m: 36, n: 12, k: 3000, transposed: [true, false], ...each(4) }
    await check(form, long)
  })

  const shapes = [
    [1, 1, 1],
    [1, 257, 72],
    [4, 72, 257],
    [257, 3, 100],
    [100, 1, 33],
    [2, 8200, 5],
  ]
  test(`products ${name}: few rows, or few columns`, { skip: skip(form) }, async () => {
    if (!form) return
    for (let i = 0; i < (form === wide ? 18 : form === half ? 9 : 0); i++) {
      const [m, n, k] = cycle(shapes, i)
      const [batch, gap] = [1 + ((i >> 1) % 2), cycle([0, 1, 4, 2], i, 3)]
      await check(form, { m, n, k, transposed: cycle(orders, i + (i >> 2)), batch, gap, ...each(i) })
    }
  })

  test(`products ${name}: c transposed, b shared by the batch`, { skip: skip(form) }, async () => {
    if (!form) return
    for (const [i, residual] of residuals.slice(hasMatrices ? 2 : 0).entries())
      await check(form, { m: 20, n: 36, k: 24, transposedC: true, ...each(i), residual })
    await check(form, { m: 20, n: 36, k: 24, batch: 3, sharedB: true, ...each(4) })
    await check(form, { m: 2, n: 36, k: 24, batch: 3, sharedB: true, transposed: [false, true], ...each(5) })
  })

  test(`products ${name}: c beside an operand, and more than f16 holds`, { skip: skip(form) }, async () => {
    if (!form) return
    await check(form, { m: 12, n: 20, k: 24, together: true, residual: 'c itself' })
    if (form === wide) await check(form, { m: 9, n: 18, k: 22, gap: 2, together: true })
    if (form === wide) await check(form, { m: 2, n: 20, k: 24, together: true })
    if (form !== wide)
      await check(form, { m: 8, n: 12, k: 24, scale: 300, types: ['f16', 'f16', 'f16', 'f16'] })
  })

  test(`products ${name}: the least that WebGPU promises`, { skip: skip(form) }, async () => {
    if (!form) return
    const target = { ...form.target, workgroupSize: 256, workgroupBytes: 16384, bindings: 8 }
    const large: Case = { m: 140, n: 132, k: 40, transposed: [true, true], ...each(6) }
    await check(form, large, { target })
    if (hasMatrices) return
    const plan = matmulPlan(productOf(512, 512, 512), target)
    await check(form, large, { target, plan: () => ({ ...plan, slices: 1, sliceDepth: 48 }) })
  })

  test(`products ${name}: the same bits each time`, { skip: skip(form) }, async () => {
    if (!form) return
    const given: Case = { m: 40, n: 40, k: 520, types: typesOf(3) }
    assert.deepEqual(await check(form, given), await check(form, given))
  })
}

test(
  'products in subgroup matrices: subgroups of several widths',
  { skip: skip(forms['in subgroup matrices']) },
  async () => {
    const form = forms['in subgroup matrices']
    if (!form) return
    const { smallest, largest } = form.target.subgroups ?? { smallest: 0, largest: 0 }
    assert.equal(smallest, largest, 'this test is for a driver with subgroups of one width')
    // What there is, is narrower than is reckoned with, or wider.
    for (const subgroups of [
      { smallest: 1, largest: largest * 2 },
      { smallest: 1, largest: largest / 2 },
    ]) {
      const target = { ...form.target, subgroups }
      await check(form, { m: 72, n: 40, k: 40, residual: 'c itself' }, { target })
      await check(form, { m: 33, n: 70, k: 40, types: ['f16', 'f16', 'f16', 'f32'] }, { target })
    }
  },
)
