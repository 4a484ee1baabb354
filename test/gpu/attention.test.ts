import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { attentionDispatches } from '../../engine/gpu/kernels/attention/attention.ts'
import { GpuError, type OpenDevice, openDevice } from '../../engine/gpu/runtime/device.ts'
import { type Dispatch, type ElementType, type Target, bytesOf } from '../../engine/gpu/kernels/kernel.ts'
import { dimensionsOf } from '../../engine/gpu/kernels/shader.ts'
import { storedBytes } from '../../engine/gpu/kernels/kernel.ts'
import { Pipelines } from '../../engine/gpu/runtime/pipelines.ts'
import { type Attention, Buffer, type View } from '../../engine/compiler/program.ts'
import { testGpu } from '../support/strict-gpu.ts'

// Attention and its gradients on the GPU beside plain JavaScript in float64.

const open = await openOrSkip()
const skip = open ? false : 'no GPU'
after(() => open?.device.destroy())

async function openOrSkip(): Promise<OpenDevice | undefined> {
  try {
    return await openDevice(await testGpu())
  } catch (error) {
    if (error instanceof GpuError) return undefined
    throw error
  }
}

/** Kernels over memory of their own. */
class Machine {
  readonly types = new Map<Buffer, ElementType>()
  private readonly open: OpenDevice
  private readonly pipelines: Pipelines
  private readonly memory = new Map<Buffer, GPUBuffer>()

  constructor(open: OpenDevice) {
    this.open = open
    this.pipelines = new Pipelines(open.device)
  }

  readonly typeOf = (buffer: Buffer): ElementType => this.types.get(buffer) ?? 'f32'

  memoryOf(buffer: Buffer): GPUBuffer {
    const known = this.memory.get(buffer)
    if (known) return known
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    const made = this.open.device.createBuffer({ size: storedBytes(buffer, this.typeOf), usage })
    this.memory.set(buffer, made)
    return made
  }

  /** Writes numbers, and gives them back as they are stored. */
  write(buffer: Buffer, values: Float64Array): Float64Array {
    const bytes = new ArrayBuffer(storedBytes(buffer, this.typeOf))
    const stored = this.arrayOf(buffer, bytes)
    stored.set(values)
    this.open.device.queue.writeBuffer(this.memoryOf(buffer), 0, bytes)
    return Float64Array.from(stored.subarray(0, values.length))
  }

  async run(dispatches: readonly Dispatch[]): Promise<void> {
    const { device } = this.open
    const ready = await Promise.all(dispatches.map(({ kernel }) => this.pipelines.get(kernel)))
    const encoder = device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    dispatches.forEach(({ buffers, workgroups }, i) => {
      const entries = buffers.map((buffer, binding) => ({
        binding,
        resource: { buffer: this.memoryOf(buffer) },
      }))
      pass.setPipeline(ready[i].pipeline)
      pass.setBindGroup(0, device.createBindGroup({ layout: ready[i].layout, entries }))
      pass.dispatchWorkgroups(...dimensionsOf(workgroups))
    })
    pass.end()
    device.queue.submit([encoder.finish()])
    await device.queue.onSubmittedWorkDone()
  }

  async read(buffer: Buffer): Promise<Float64Array> {
    const { device } = this.open
    const size = storedBytes(buffer, this.typeOf)
    const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(this.memoryOf(buffer), 0, staging, 0, size)
    device.queue.submit([encoder.finish()])
    await staging.mapAsync(GPUMapMode.READ)
    const numbers = Float64Array.from(
      this.arrayOf(buffer, staging.getMappedRange().slice(0)).subarray(0, buffer.size),
    )
    staging.destroy()
    return numbers
  }

  free(): void {
    for (const buffer of this.memory.values()) buffer.destroy()
  }

  private arrayOf(buffer: Buffer, bytes: ArrayBuffer) {
    return bytesOf[this.typeOf(buffer)] === 2 ? new Float16Array(bytes) : new Float32Array(bytes)
  }
}

interface Shape {
  batch: number
  heads: number
  length: number
  keyDim: number
  valueDim: number
  slope: boolean
}

type Names =
  'query' | 'key' | 'value' | 'out' | 'outGradient' | 'queryGradient' | 'keyGradient' | 'valueGradient'

const gradientNames = ['queryGradient', 'keyGradient', 'valueGradient'] as const

/** Plain attention: all numbers in float64, matrices [batch * length, heads * width]; logSumExp is to base 2. */
function reference(
  { batch, heads, length, keyDim, valueDim, slope }: Shape,
  scale: number,
  { query, key, value, outGradient }: Record<'query' | 'key' | 'value' | 'outGradient', Float64Array>,
  slopes: Float64Array,
) {
  const out = new Float64Array(value.length)
  const logSumExp = new Float64Array(batch * heads * length)
  const queryGradient = new Float64Array(query.length)
  const keyGradient = new Float64Array(key.length)
  const valueGradient = new Float64Array(value.length)
  const slopeGradient = new Float64Array(batch * heads)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const keyAt = (i: number) => ((b * length + i) * heads + h) * keyDim
      const valueAt = (i: number) => ((b * length + i) * heads + h) * valueDim
      for (let i = 0; i < length; i++) {
        const dot = (x: Float64Array, xAt: number, y: Float64Array, yAt: number, width: number) => {
          let sum = 0
          for (let c = 0; c < width; c++) sum += x[xAt + c] * y[yAt + c]
          return sum
        }
        const scores = Array.from(
          { length: i + 1 },
          (_, j) => scale * dot(query, keyAt(i), key, keyAt(j), keyDim) + (slope ? slopes[h] * (j - i) : 0),
        )
        const top = Math.max(...scores)
        const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0)
        logSumExp[(b * heads + h) * length + i] = top / Math.LN2 + Math.log2(total)
        const weights = scores.map(score => Math.exp(score - top) / total)
        for (let j = 0; j <= i; j++)
          for (let c = 0; c < valueDim; c++) out[valueAt(i) + c] += weights[j] * value[valueAt(j) + c]
        const mean = dot(out, valueAt(i), outGradient, valueAt(i), valueDim)
        for (let j = 0; j <= i; j++) {
          const weight = weights[j]
          const gradient = weight * (dot(outGradient, valueAt(i), value, valueAt(j), valueDim) - mean)
          slopeGradient[b * heads + h] += gradient * (j - i)
          for (let c = 0; c < valueDim; c++)
            valueGradient[valueAt(j) + c] += weight * outGradient[valueAt(i) + c]
          for (let c = 0; c < keyDim; c++) {
            queryGradient[keyAt(i) + c] += scale * gradient * key[keyAt(j) + c]
            keyGradient[keyAt(j) + c] += scale * gradient * query[keyAt(i) + c]
          }
        }
      }
    }
  }
  return { out, logSumExp, queryGradient, keyGradient, valueGradient, slopeGradient }
}

/** Numbers from -1 to 1 that are the same in each run. */
function numbers(count: number, seed: number): Float64Array {
  let state = seed * 2654435761 + 12345
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}

/**
 * How operands lie in memory: those of a list are columns of one buffer, after some columns of something
 * else.
 */
interface Layout {
  groups: readonly (readonly Names[])[]
  before: number
  after: number
}

const apart: Layout = {
  groups: [
    ['query'],
    ['key'],
    ['value'],
    ['out'],
    ['outGradient'],
    ['queryGradient'],
    ['keyGradient'],
    ['valueGradient'],
  ],
  before: 0,
  after: 0,
}
const together = (before: number, after: number): Layout => ({
  groups: [
    ['query', 'key', 'value'],
    ['out'],
    ['outGradient'],
    ['queryGradient', 'keyGradient', 'valueGradient'],
  ],
  before,
  after,
})

type Errors = Record<string, number>

/** Runs both passes; the largest errors, relative to the largest element of each result. */
async function errorsOf(
  shape: Shape,
  {
    half = [],
    layout = together(4, 8),
    target = open!.target,
  }: { half?: readonly Names[]; layout?: Layout; target?: Target },
): Promise<Errors> {
  const { batch, heads, length, keyDim, valueDim, slope } = shape
  const machine = new Machine(open!)
  const widthOf = (name: Names) => heads * (/query|key/.test(name) ? keyDim : valueDim)
  const views = new Map<Names, View>()
  for (const names of layout.groups) {
    const stride = layout.before + names.reduce((sum, name) => sum + widthOf(name), 0) + layout.after
    const buffer = new Buffer(batch * length * stride, 'float32')
    if (names.some(name => half.includes(name))) machine.types.set(buffer, 'f16')
    let offset = layout.before
    for (const name of names) {
      const width = widthOf(name)
      views.set(name, {
        buffer,
        offset,
        shape: [batch, length, width],
        strides: [length * stride, stride, 1],
      })
      offset += width
    }
  }
  const view = (name: Names) => views.get(name)!
  const plain = (...extents: number[]): View => ({
    buffer: new Buffer(
      extents.reduce((a, b) => a * b, 1),
      'float32',
    ),
    offset: 0,
    shape: extents,
    strides: extents.map((_, i) => extents.slice(i + 1).reduce((a, b) => a * b, 1)),
  })
  const [slopes, logSumExp, slopeGradient] = [plain(heads), plain(batch, heads, length), plain(batch, heads)]
  const allElements = (name: Names, all: Float64Array) => {
    const { offset, strides } = view(name)
    const width = widthOf(name)
    return Float64Array.from(
      { length: batch * length * width },
      (_, i) => all[offset + Math.floor(i / width) * strides[1] + (i % width)],
    )
  }
  const initial = new Map<Buffer, Float64Array>()
  for (const { buffer } of views.values())
    if (!initial.has(buffer))
      initial.set(buffer, machine.write(buffer, numbers(buffer.size, initial.size + 1)))
  const given = (name: Names) => allElements(name, initial.get(view(name).buffer)!)
  const slopeValues = machine.write(
    slopes.buffer,
    numbers(heads, 99).map(x => Math.abs(x) * 0.5),
  )
  // Large scores, so that weights differ much.
  const scale = 4 / Math.sqrt(keyDim)
  const sizes = { batch, heads, length, keyDim, valueDim, scale }
  const operands = {
    query: view('query'),
    key: view('key'),
    value: view('value'),
    ...(slope && { slope: slopes }),
  }
  const out = view('out')
  const forward: Attention = { kind: 'attention', ...sizes, operands, results: { out, logSumExp } }
  const backward: Attention = {
    kind: 'attentionGradient',
    ...sizes,
    operands: { ...operands, out, logSumExp, outGradient: view('outGradient') },
    results: {
      query: view('queryGradient'),
      key: view('keyGradient'),
      value: view('valueGradient'),
      ...(slope && { slope: slopeGradient }),
    },
  }
  const dispatches = [forward, backward].flatMap(work => attentionDispatches(work, machine.typeOf, target))
  for (const { buffers } of dispatches) assert(buffers.length <= 8, 'more buffers than every GPU has')
  await machine.run(dispatches)
  const results = [
    ...new Set([...views.values(), logSumExp, ...(slope ? [slopeGradient] : [])].map(({ buffer }) => buffer)),
  ]
  const first = await Promise.all(results.map(buffer => machine.read(buffer)))
  await machine.run(dispatches)
  for (const [i, buffer] of results.entries())
    assert.deepEqual(await machine.read(buffer), first[i], 'a second run has other bits')

  const names = ['query', 'key', 'value', 'outGradient'] as const
  const [query, key, value, outGradient] = names.map(given)
  const want = reference(shape, scale, { query, key, value, outGradient }, slopeValues)
  const got: Record<string, Float64Array> = {
    logSumExp: await machine.read(logSumExp.buffer),
    ...(slope && { slopeGradient: await machine.read(slopeGradient.buffer) }),
  }
  for (const name of ['out', 'queryGradient', 'keyGradient', 'valueGradient'] as const) {
    const all = await machine.read(view(name).buffer)
    got[name] = allElements(name, all)
    const isOurs = new Set(
      [...views]
        .filter(([, other]) => other.buffer === view(name).buffer)
        .flatMap(([, { offset, shape }]) => Array.from({ length: shape[2] }, (_, c) => offset + c)),
    )
    const before = initial.get(view(name).buffer)!
    const stride = view(name).strides[1]
    assert(
      all.every((x, i) => isOurs.has(i % stride) || x === before[i]),
      `${name}: its neighbours were changed`,
    )
  }
  machine.free()
  return Object.fromEntries(
    Object.entries(got).map(([name, values]) => [
      name,
      errorOf(values, Object.entries(want).find(([other]) => other === name)![1]),
    ]),
  )
}

function errorOf(got: Float64Array, want: Float64Array): number {
  const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0.1)
  return got.reduce((most, x, i) => {
    const error = Math.abs(x - want[i]) / largest
    return error <= most ? most : error
  }, 0)
}

/** What is run: in which form, with what as f16, laid out how. */
interface Case extends Shape {
  readonly form: 'float32' | 'f16 in memory' | 'subgroup matrices'
  readonly half?: readonly Names[]
  readonly layout?: Layout
  readonly target?: Partial<Target>
}

const shape = (
  batch: number,
  heads: number,
  length: number,
  keyDim: number,
  valueDim: number,
  slope: boolean,
) => ({
  batch,
  heads,
  length,
  keyDim,
  valueDim,
  slope,
})
const everything: readonly Names[] = ['query', 'key', 'value', 'out', 'outGradient', ...gradientNames]

/** What every GPU has. */
const least: Partial<Target> = {
  f16: false,
  subgroups: undefined,
  workgroupSize: 256,
  workgroupBytes: 16384,
  bindings: 8,
}

const cases: readonly Case[] = [
  { form: 'float32', ...shape(3, 1, 1, 48, 384, true) },
  { form: 'float32', ...shape(2, 3, 7, 5, 9, false), layout: apart },
  { form: 'float32', ...shape(1, 3, 33, 8, 8, true), layout: apart },
  { form: 'float32', ...shape(2, 1, 64, 48, 384, true), target: least },
  { form: 'float32', ...shape(2, 3, 100, 16, 24, true), target: least },
  { form: 'float32', ...shape(1, 1, 150, 5, 9, false), layout: together(1, 2) },
  { form: 'f16 in memory', ...shape(3, 3, 100, 8, 8, true), half: everything },
  { form: 'f16 in memory', ...shape(1, 1, 33, 5, 9, true), half: ['value', 'outGradient'], layout: apart },
  { form: 'subgroup matrices', ...shape(2, 1, 100, 16, 24, true), half: ['out', 'outGradient'] },
  // The subgroups are narrower than the widest, so that there are more of them than there is work for.
  {
    form: 'subgroup matrices',
    ...shape(1, 3, 33, 5, 9, false),
    half: everything,
    target: { subgroups: { smallest: 4, largest: 2 * (open?.target.subgroups?.largest ?? 0) } },
  },
]

/**
 * The bounds on errors, relative to a result's largest element. A number that is stored as f16 is off by at
 * most u = 2^-10 of itself, since GPUs may round either way. In matrices weights are rounded as well, which
 * moves a weighted mean of values by at most u times the largest; and operands that lie in memory as float32.
 * What gradients are made from, out and weights and gradients of scores, is off by as much each; where terms
 * cancel, their sum's largest element is smaller than they are, but only a few times in numbers from -1 to 1.
 */
const u = 2 ** -10
const bounds = {
  float32: { logSumExp: 1e-5, out: 1e-5, gradients: 1e-4 },
  'f16 in memory': { logSumExp: 1e-5, out: u, gradients: 4 * u },
  'subgroup matrices': { logSumExp: 4 * u, out: 2 * u, gradients: 8 * u },
}

for (const { form, half = [], layout, target, ...sizes } of cases) {
  const { batch, heads, length, keyDim, valueDim, slope } = sizes
  const what = `${batch} x ${heads} heads of ${keyDim} and ${valueDim}, length ${length}${slope ? ', slope' : ''}`
  const why = skip || (form !== 'float32' && !open?.target.f16 && 'no f16')
  const noMatrices = form === 'subgroup matrices' && !open?.target.subgroupMatrix && 'no subgroup matrices'
  test(`attention, ${form}: ${what}`, { skip: why || noMatrices }, async () => {
    const { subgroupMatrix, ...rest } = open!.target
    const matrices = form === 'subgroup matrices' ? subgroupMatrix : undefined
    const all = { ...rest, ...target, subgroupMatrix: matrices }
    const errors = await errorsOf(sizes, { half, layout, target: all })
    for (const [name, error] of Object.entries(errors)) {
      const { logSumExp, out, gradients } = bounds[form]
      const bound = name === 'logSumExp' ? logSumExp : name === 'out' ? out : gradients
      assert(error <= bound, `${name} is off by ${error} of its largest element, of ${bound} at most`)
    }
    if (process.env.ERRORS) console.log(form, what, errors)
  })
}
