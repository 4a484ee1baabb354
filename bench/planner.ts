/** Plans programs for the GPU as its backend does, without a GPU. */
import type { Backend, Executable } from '../engine/runtime/backend.ts'
import type { Precision } from '../engine/gpu/kernels/kernel.ts'
import type { Target } from '../engine/gpu/kernels/kernel.ts'
import { type DeviceProgram, logitsAtOnce, planProgram } from '../engine/gpu/passes/device-program.ts'
import { Pipelines } from '../engine/gpu/runtime/pipelines.ts'
import { withPauses } from '../engine/compiler/pauses.ts'
import type { Program } from '../engine/compiler/program.ts'

/** What Dawn offers of a GPU of NVIDIA's with tensor cores. */
export const tensorCores: Target = {
  f16: true,
  subgroups: { smallest: 32, largest: 32 },
  subgroupMatrix: { m: 16, n: 16, k: 16 },
  workgroupSize: 1024,
  workgroupBytes: 49152,
  bindings: 16,
}

/**
 * A backend that plans for a GPU which is not there: it keeps the plans of what is compiled, and computes nothing. With a
 * device of Dawn's null backend it compiles the shaders as far as a driver would take over.
 */
export class Planner implements Backend {
  readonly description = 'nothing that computes'
  readonly scalesLoss: boolean
  readonly peakGflops = 0
  readonly logitsAtOnce: number
  readonly capacity = { most: Infinity, usual: Infinity }
  /** The last program's. */
  plan: DeviceProgram | undefined
  private readonly precision: Precision
  private readonly target: Target
  private readonly pipelines: Pipelines | undefined

  constructor(
    precision: Precision,
    { device, target }: { device?: GPUDevice; target: Target } = { target: tensorCores },
  ) {
    this.precision = precision
    this.target = target
    this.pipelines = device && new Pipelines(device)
    this.scalesLoss = precision === 'f16'
    this.logitsAtOnce = logitsAtOnce(precision, Infinity)
  }

  async allocate(): Promise<object> {
    return {}
  }

  async read(): Promise<Float32Array> {
    return new Float32Array()
  }

  async write(): Promise<void> {}

  async load(program: Program): Promise<Executable> {
    const made = await withPauses(planProgram(program, this.precision, this.target))
    this.plan = made
    await Promise.all(made.dispatches.map(({ kernel }) => this.pipelines?.get(kernel)))
    return {
      temporaryBytes: made.temporaryBytes,
      dispatches: made.dispatches.length,
      bytesMoved: made.bytesMoved,
      run: async () => ({ results: Promise.resolve([]) }),
      profile: async () => [],
      steps: () => [],
    }
  }

  async close(): Promise<void> {}
}
