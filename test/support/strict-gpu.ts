/**
 * A GPU on which kernels are strict: every index into memory is looked at, and memory that a workgroup shares starts as
 * garbage. WebGPU would move an index into range, and clear that memory, and so hide what is wrong where neither is done.
 */
import assert from 'node:assert/strict'
import { after } from 'node:test'
import { nodeGpu } from '../../engine/gpu/runtime/node.ts'
import { over } from './over.ts'

/** Kernels that a device can tell apart; the first word says whether any was wrong. */
const most = 1 << 16

const devices: Watched[] = []
after(async () => {
  const wrong = await Promise.all(devices.map(device => device.wrong()))
  assert.deepEqual(wrong.flat(), [], 'these kernels use memory that is not theirs')
})

/** Dawn in Node, with strict kernels where HLB_STRICT is in the environment. */
export async function testGpu(): Promise<GPU> {
  const gpu = await nodeGpu()
  return process.env.HLB_STRICT ? strict(gpu) : gpu
}

/** The GPU, whose kernels are strict. What they do wrong fails the tests of the file when all of them are done. */
function strict(gpu: GPU): GPU {
  return over(gpu, {
    requestAdapter: async (...options: Parameters<GPU['requestAdapter']>) => {
      const adapter = await gpu.requestAdapter(...options)
      return adapter && strictAdapter(adapter)
    },
  })
}

/** It offers one binding less: that is the watch's. */
function strictAdapter(adapter: GPUAdapter): GPUAdapter {
  const { maxStorageBuffersPerShaderStage } = adapter.limits
  return over(adapter, {
    limits: over(adapter.limits, { maxStorageBuffersPerShaderStage: maxStorageBuffersPerShaderStage - 1 }),
    requestDevice: async (descriptor: GPUDeviceDescriptor) => {
      const requiredLimits = { ...descriptor.requiredLimits, maxStorageBuffersPerShaderStage }
      const watched = new Watched(await adapter.requestDevice({ ...descriptor, requiredLimits }))
      devices.push(watched)
      return watched.device
    },
  })
}

/** A device with a buffer in which kernels note what they do wrong. */
class Watched {
  readonly device: GPUDevice
  private readonly real: GPUDevice
  private readonly notes: GPUBuffer
  private readonly names: string[] = ['']
  private known: string[] | undefined

  constructor(real: GPUDevice) {
    this.real = real
    this.notes = real.createBuffer({
      size: 4 * most,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
    })
    const onSubmittedWorkDone = async () => {
      // It is about to be closed.
      await this.wrong()
      return undefined
    }
    this.device = over(real, {
      queue: over(real.queue, { onSubmittedWorkDone }),
      createShaderModule: (descriptor: GPUShaderModuleDescriptor) => {
        this.names.push(descriptor.label ?? '')
        const code = strictCode(descriptor.code, this.names.length - 1)
        return real.createShaderModule({ ...descriptor, code })
      },
      createBindGroupLayout: ({ entries }: GPUBindGroupLayoutDescriptor) => {
        const all = [...entries]
        const { visibility } = all[0]
        const own = { binding: all.length, visibility, buffer: { type: 'storage' as const } }
        return real.createBindGroupLayout({ entries: [...all, own] })
      },
      createBindGroup: ({ layout, entries }: GPUBindGroupDescriptor) => {
        const all = [...entries]
        return real.createBindGroup({
          layout,
          entries: [...all, { binding: all.length, resource: { buffer: this.notes } }],
        })
      },
    })
  }

  /** The kernels that were wrong, and where. */
  async wrong(): Promise<string[]> {
    const size = 4 * this.names.length
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST
    const staging = this.real.createBuffer({ size, usage })
    const encoder = this.real.createCommandEncoder()
    encoder.copyBufferToBuffer(this.notes, 0, staging, 0, size)
    this.real.queue.submit([encoder.finish()])
    try {
      await staging.mapAsync(GPUMapMode.READ)
      const lines = new Uint32Array(staging.getMappedRange().slice(0))
      staging.unmap()
      this.known = this.names.flatMap((name, i) => (lines[i] > 0 ? [`${name}, line ${lines[i]}`] : []))
    } catch {
      // The device is gone: what was known of it before stands.
    }
    return this.known ?? []
  }
}

/** An array of a kernel: its elements' type, and how many there are. */
interface Declared {
  readonly name: string
  readonly element: string
  readonly length: string
  readonly isShared: boolean
}

/** A kernel that notes indices that are out of range, by its number, and where: so many lines from the top. */
function strictCode(code: string, number: number): string {
  const stored = [...code.matchAll(/var<storage, \w+> (\w+): array<(.+)>;/g)].map(
    ([, name, element]): Declared => ({ name, element, length: `arrayLength(&${name})`, isShared: false }),
  )
  const shared = [...code.matchAll(/var<workgroup> (\w+): array<(.+), (\d+)>;/g)].map(
    ([, name, element, length]): Declared => ({ name, element, length: `${length}u`, isShared: true }),
  )
  const arrays = new Map([...stored, ...shared].map(array => [array.name, array]))
  const matrix = /subgroup_matrix_result<f32, (\d+), (\d+)>/.exec(code)
  const result = matrix && { columns: Number(matrix[1]), rows: Number(matrix[2]) }
  const lines = code.split('\n').map((line, i) => withIndices(line, arrays, result, `${number}u, ${i + 1}u`))
  const size = /@workgroup_size\((\d+)\)/.exec(code)?.[1]
  const start = lines.findIndex(line => line.startsWith('fn main('))
  const garbage = shared.map(
    ({ name, element, length }) =>
      `for (var i = thread; i < ${length}; i += ${size}u) { ${garbageOf(name, element)} }`,
  )
  lines.splice(start + 1, 0, ...garbage, ...(garbage.length > 0 ? ['workgroupBarrier();'] : []))
  const declarations = `
@group(0) @binding(${stored.length}) var<storage, read_write> wrong: array<atomic<u32>>;
fn inside(index: u32, length: u32, kernel: u32, line: u32) -> u32 {
  if (index < length) { return index; }
  atomicMax(&wrong[kernel], line);
  return length - 1u;
}
fn block(index: u32, reach: u32, length: u32, kernel: u32, line: u32) -> u32 {
  if (index + reach <= length) { return index; }
  atomicMax(&wrong[kernel], line);
  return 0u;
}`
  return `${lines.join('\n')}${declarations}\n`
}

/** What is left in memory by others: NaN, or a large number. */
function garbageOf(name: string, element: string): string {
  if (element === 'atomic<u32>') return `atomicStore(&${name}[i], 0x5a5a5a5au);`
  if (element === 'u32' || element === 'i32') return `${name}[i] = ${element}(0x5a5a5a5a);`
  // Neither a literal nor an expression of constants may be NaN.
  const scalar = element.includes('f16')
    ? 'f16(bitcast<f32>(0x7fc00000u | (thread >> 31u)))'
    : 'bitcast<f32>(0x7fc00000u | (thread >> 31u))'
  return `${name}[i] = ${element}(${scalar});`
}

/** A line whose indices, and whose blocks of subgroup matrices, are looked at. */
function withIndices(
  line: string,
  arrays: ReadonlyMap<string, Declared>,
  result: { columns: number; rows: number } | null,
  place: string,
): string {
  if (line.includes('var<storage') || line.includes('var<workgroup')) return line
  let text = line
  for (let at = 0; at < text.length; at++) {
    const rest = text.slice(at)
    const isWord = at > 0 && /\w/.test(text[at - 1])
    const [found, name] = (!isWord && /^(\w+)\[/.exec(rest)) || []
    const array = name === undefined ? undefined : arrays.get(name)
    if (array && found) {
      const from = at + found.length
      const end = closing(text, from)
      const index = `inside(u32(${text.slice(from, end)}), ${array.length}, ${place})`
      text = `${text.slice(0, from)}${index}${text.slice(end)}`
      // Indices within the index are next.
      at = from
      continue
    }
    const [call, , columns, rows, order, matrixName] =
      (!isWord &&
        /^subgroupMatrix(?:Load<subgroup_matrix_\w+<(\w+), (\d+), (\d+)>, (\w+)>|Store<row_major>)\(&(\w+), /.exec(
          rest,
        )) ||
      []
    const memory = matrixName === undefined ? undefined : arrays.get(matrixName)
    if (call && memory) {
      const from = at + call.length
      const end = comma(text, from)
      const last = text.slice(0, closing(text, from)).lastIndexOf(', ')
      const stride = text.slice(last + 2, closing(text, from))
      const [wide, high] = columns
        ? [Number(columns), Number(rows)]
        : [result?.columns ?? 0, result?.rows ?? 0]
      const [length, lines] = order === 'col_major' ? [high, wide] : [wide, high]
      const reach = `u32(${stride}) * ${lines - 1}u + ${length}u`
      const index = `block(u32(${text.slice(from, end)}), ${reach}, ${memory.length}, ${place})`
      text = `${text.slice(0, from)}${index}${text.slice(end)}`
      at = from
    }
  }
  return text
}

/** Where the bracket closes that is open at a place. */
function closing(text: string, from: number): number {
  let depth = 1
  for (let at = from; ; at++) {
    if (at >= text.length) throw new Error(`a bracket is open at the end of: ${text}`)
    if ('([{'.includes(text[at])) depth++
    if (')]}'.includes(text[at]) && --depth === 0) return at
  }
}

/** Where the argument ends that begins at a place. */
function comma(text: string, from: number): number {
  let depth = 0
  for (let at = from; ; at++) {
    if (at >= text.length) throw new Error(`an argument is open at the end of: ${text}`)
    if ('([{'.includes(text[at])) depth++
    if (')]}'.includes(text[at])) depth--
    if (depth === 0 && text[at] === ',') return at
  }
}
