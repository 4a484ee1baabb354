import type { Kernel } from '../kernels/kernel.ts'

/** A kernel ready to be dispatched. */
export interface Pipeline {
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

/** Is told how many kernels are compiled of those that are under way. */
export type CompileProgress = (done: number, all: number) => void

/** The kernels of a device, each compiled once. */
export class Pipelines {
  private readonly device: GPUDevice
  private readonly progress: CompileProgress
  /** Of the kernels that are being compiled at the same time, how many are done. */
  private under = { done: 0, all: 0 }
  private readonly pipelines = new Map<string, Promise<Pipeline>>()
  private readonly layouts = new Map<string, GPUBindGroupLayout>()

  constructor(device: GPUDevice, progress: CompileProgress = () => {}) {
    this.device = device
    this.progress = progress
  }

  /** Compiles a kernel, or waits for it. Throws an Error that names the kernel and the line when WGSL is wrong. */
  get(kernel: Kernel): Promise<Pipeline> {
    const known = this.pipelines.get(kernel.code)
    if (known) return known
    const pipeline = this.counted(this.compile(kernel))
    this.pipelines.set(kernel.code, pipeline)
    return pipeline
  }

  private async counted(compiling: Promise<Pipeline>): Promise<Pipeline> {
    this.under.all++
    try {
      return await compiling
    } finally {
      this.under.done++
      this.progress(this.under.done, this.under.all)
      if (this.under.done === this.under.all) this.under = { done: 0, all: 0 }
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
    // What was invalid before says more than that the pipeline could not be made of it.
    const where = first ? `line ${first.lineNum}: ${first.message}\n  ${line}` : (error?.message ?? made)
    throw new Error(`the GPU kernel ${name} does not compile: ${where}`)
  }

  /** A layout of the storage buffers that the code declares. */
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
