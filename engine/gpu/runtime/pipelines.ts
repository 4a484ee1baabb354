// Compiles kernels for a device.
import type { Kernel } from '../kernels/kernel.ts'

/** A compiled kernel. */
export interface Pipeline {
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

/** Receives how many kernels of those requested so far are compiled. */
export type CompileProgress = (done: number, all: number) => void

/** A device's kernels. Each is compiled once. */
export class Pipelines {
  private readonly device: GPUDevice
  private readonly progress: CompileProgress
  /** How many kernels are compiled of those that were requested since none was under way. */
  private progressed = { done: 0, all: 0 }
  private readonly pipelines = new Map<string, Promise<Pipeline>>()
  private readonly layouts = new Map<string, GPUBindGroupLayout>()

  constructor(device: GPUDevice, progress: CompileProgress = () => {}) {
    this.device = device
    this.progress = progress
  }

  /** Compiles a kernel, unless it is compiled already. Throws an Error with its name and line if its WGSL is invalid. */
  get(kernel: Kernel): Promise<Pipeline> {
    const known = this.pipelines.get(kernel.code)
    if (known) return known
    const pipeline = this.counted(this.compile(kernel))
    this.pipelines.set(kernel.code, pipeline)
    return pipeline
  }

  private async counted(compiling: Promise<Pipeline>): Promise<Pipeline> {
    this.progressed.all++
    try {
      return await compiling
    } finally {
      this.progressed.done++
      this.progress(this.progressed.done, this.progressed.all)
      if (this.progressed.done === this.progressed.all) this.progressed = { done: 0, all: 0 }
    }
  }

  private async compile({ name, code }: Kernel): Promise<Pipeline> {
    this.device.pushErrorScope('validation')
    const bindings = this.layout(code)
    const layout = this.device.createPipelineLayout({ bindGroupLayouts: [bindings] })
    const module = this.device.createShaderModule({ code, label: name })
    const invalid = this.device.popErrorScope()
    const compute = { module, entryPoint: 'main' }
    const pipeline = this.device.createComputePipelineAsync({ label: name, layout, compute })
    const [made, error] = await Promise.all([pipeline.catch(reasonOf), invalid])
    if (typeof made !== 'string') return { pipeline: made, layout: bindings }
    const { messages } = await module.getCompilationInfo()
    const first = messages.find(({ type }) => type === 'error')
    const line = first && code.split('\n')[first.lineNum - 1]?.trim()
    // The first error says more than the failure of the pipeline that follows from it.
    const where = first ? `line ${first.lineNum}: ${first.message}\n  ${line}` : (error?.message ?? made)
    throw new Error(`the GPU kernel ${name} does not compile: ${where}`)
  }

  /** The layout of the storage buffers that the code declares. */
  private layout(code: string): GPUBindGroupLayout {
    const kinds = [...code.matchAll(/var<storage, (read|read_write)>/g)].map(([, kind]) => kind)
    const known = this.layouts.get(kinds.join())
    if (known) return known
    const layout = this.device.createBindGroupLayout({
      entries: kinds.map((kind, binding) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: kind === 'read' ? 'read-only-storage' : 'storage' },
      })),
    })
    this.layouts.set(kinds.join(), layout)
    return layout
  }
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
