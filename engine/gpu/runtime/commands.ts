// Commands for the GPU's queue, and their times.

/** A kernel bound to its memory, ready for the GPU's queue. */
export interface Command {
  readonly pipeline: GPUComputePipeline
  readonly group: GPUBindGroup
  readonly dimensions: readonly [x: number, y: number]
}

/** Adds a command to a pass. */
export function issue(pass: GPUComputePassEncoder, { pipeline, group, dimensions }: Command): void {
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, group)
  pass.dispatchWorkgroups(...dimensions)
}

/** Runs commands one by one, and returns the milliseconds that each took. The device must have timestamp queries. */
export async function timesOf(device: GPUDevice, commands: readonly Command[]): Promise<number[]> {
  /** The most pairs of timestamps in a query set, which holds 4,096 timestamps. */
  const most = 2048
  const times: number[] = []
  for (let first = 0; first < commands.length; first += most) {
    const batch = commands.slice(first, first + most)
    const count = 2 * batch.length
    const querySet = device.createQuerySet({ type: 'timestamp', count })
    const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC
    const resolved = device.createBuffer({ size: count * 8, usage })
    const readable = device.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    })
    const encoder = device.createCommandEncoder()
    batch.forEach((command, i) => {
      const pass = encoder.beginComputePass({
        timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
      })
      issue(pass, command)
      pass.end()
    })
    encoder.resolveQuerySet(querySet, 0, count, resolved, 0)
    encoder.copyBufferToBuffer(resolved, 0, readable, 0, count * 8)
    device.queue.submit([encoder.finish()])
    await readable.mapAsync(GPUMapMode.READ)
    const nanoseconds = new BigUint64Array(readable.getMappedRange())
    batch.forEach((_, i) => times.push(Number(nanoseconds[2 * i + 1] - nanoseconds[2 * i]) / 1e6))
    readable.unmap()
    for (const used of [resolved, readable, querySet]) used.destroy()
  }
  return times
}
