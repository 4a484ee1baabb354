// What a GPU would do, without one: npm run plan. Kernels, bytes and memory of a training step of hlb-gpt's networks,
// and how long it takes to compile one for sequences of another length.
import { networkSize } from '../baselines/schedules-0.4.ts'
import { parametersOf, useBackend } from '../engine/index.ts'
import { openDevice } from '../engine/gpu/runtime/device.ts'
import { nodeGpu } from '../engine/gpu/runtime/node.ts'
import { bytesOf as elementBytes } from '../engine/gpu/kernels/kernel.ts'
import { handleErrors } from '../run/process/handle-errors.ts'
import { createProgress } from '../common/progress.ts'
import { trainingStep } from './latent.ts'
import { Planner } from './planner.ts'
import { table } from './show.ts'
import type { Step } from './work.ts'

handleErrors()
const progress = createProgress()
const vocabulary = 50304
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`

const step = (size: { dim: number; blocks: number }, length: number, batch: number): Step => ({
  kind: 'step',
  ...size,
  vocabulary,
  length,
  batch,
  steps: 1,
})

/** The plan of a training step, and the bytes of its variables: f32, and for products f16 copies. */
async function planOf(work: Step, precision: 'f32' | 'f16') {
  const planner = new Planner(precision)
  useBackend(planner)
  const { compiled, inputs, parameters } = trainingStep(work)
  const { temporaryBytes, variableBytes, dispatches, bytesMoved } = await compiled.prepare(inputs)
  const { plan } = planner
  if (!plan) throw new Error('nothing was planned')
  const copies = [...plan.halfCopies.values()].reduce((sum, { size }) => sum + size * elementBytes.f16, 0)
  const count = parametersOf(parameters).reduce((sum, [, { size }]) => sum + size, 0)
  return {
    plan,
    dispatches,
    bytesMoved,
    parameters: count,
    temporaryBytes,
    variableBytes: variableBytes + copies,
  }
}

/**
 * The least that a step moves: each parameter, gradient and both moments read and written once, and each activation that
 * the backward pass needs written and read once, as is its gradient: in f16 where products read it.
 */
function leastBytes({ dim, blocks, length, batch }: Step, parameters: number, each: number): number {
  const tokens = length * batch
  const keyDim = Math.floor(dim / 8)
  // The stream between blocks; what the block expands to; what it projects.
  const block = dim * elementBytes.f32 + (2 * keyDim + 4 * dim) * each + 2 * dim * each
  return parameters * 4 * 2 * elementBytes.f32 + tokens * (blocks * block + 2 * dim * each) * 4
}

const size = networkSize(1)
const rows: string[][] = [['network of 46 M, 16 x 1,024', 'f32', 'f16']]
const whole = step(size, 1024, 16)
const plans = { f32: await planOf(whole, 'f32'), f16: await planOf(whole, 'f16') }
const both = (of: (made: (typeof plans)['f32'], each: number) => string) => [
  of(plans.f32, elementBytes.f32),
  of(plans.f16, elementBytes.f16),
]
rows.push(
  ['parameters', ...both(({ parameters }) => `${(parameters / 1e6).toFixed(1)} M`)],
  ['kernels a step', ...both(({ dispatches }) => String(dispatches))],
  [
    'different kernels',
    ...both(({ plan }) => String(new Set(plan.dispatches.map(({ kernel }) => kernel.name)).size)),
  ],
  ['bytes moved', ...both(({ bytesMoved }) => gigabytes(bytesMoved))],
  ['at least', ...both(({ parameters }, each) => gigabytes(leastBytes(whole, parameters, each)))],
  [
    'ratio',
    ...both(({ bytesMoved, parameters }, each) =>
      (bytesMoved / leastBytes(whole, parameters, each)).toFixed(2),
    ),
  ],
  ['variables', ...both(({ variableBytes }) => gigabytes(variableBytes))],
  ['temporaries', ...both(({ temporaryBytes }) => gigabytes(temporaryBytes))],
)
console.log(`${table(rows)}\n`)

/** Kernels by the first word of their names. */
const kinds = new Map<string, { count: number; bytes: number; flops: number }>()
for (const { kernel, bytes, flops } of plans.f16.plan.dispatches) {
  const [kind] = kernel.name.split(/[ .]/)
  const before = kinds.get(kind) ?? { count: 0, bytes: 0, flops: 0 }
  kinds.set(kind, { count: before.count + 1, bytes: before.bytes + bytes, flops: before.flops + flops })
}
console.log(
  `${table([
    ['where the bytes go, f16', 'kernels', 'bytes', 'GFLOP'],
    ...[...kinds]
      .sort(([, a], [, b]) => b.bytes - a.bytes)
      .map(([kind, { count, bytes, flops }]) => [
        kind,
        String(count),
        gigabytes(bytes),
        (flops / 1e9).toFixed(0),
      ]),
  ])}\n`,
)

/** The largest network of hlb-gpt's proportions whose step of one sequence of 1,024 fits, in f16. */
async function largest(limit: number) {
  const fits = async (scale: number) => {
    const made = await planOf(step(networkSize(scale), 1024, 1), 'f16')
    return { ...made, fits: made.variableBytes + made.temporaryBytes <= limit }
  }
  let [low, high] = [0.1, 1]
  while ((await fits(high)).fits) [low, high] = [high, high * 2]
  for (let i = 0; i < 6; i++) {
    const middle = (low + high) / 2
    progress.update(0.5, `modelScale ${middle.toFixed(2)}`)
    if ((await fits(middle)).fits) low = middle
    else high = middle
  }
  progress.clear()
  return { ...(await fits(low)), ...networkSize(low) }
}

const fitting: string[][] = [['memory', 'parameters', 'blocks x dim', 'variables', 'temporaries']]
for (const limit of [8e9, 24e9, 80e9]) {
  const { parameters, blocks, dim, variableBytes, temporaryBytes } = await largest(limit)
  fitting.push([
    `${limit / 1e9} GB`,
    `${(parameters / 1e6).toFixed(0)} M`,
    `${blocks} x ${dim}`,
    gigabytes(variableBytes),
    gigabytes(temporaryBytes),
  ])
}
console.log(`${table(fitting)}\n`)

// Dawn's null backend checks and compiles shaders as far as a driver would take over, and runs nothing.
const { device, target } = await openDevice(await nodeGpu(['backend=null']))
useBackend(new Planner('f16', { device, target }))
const times: string[][] = [['length', 'trace and compile', 'again']]
const { compiled, inputsOf } = trainingStep(whole)
for (let length = 32; length <= 1024; length *= 2) {
  const inputs = inputsOf(16384 / length, length)
  const { compileTime } = await compiled.prepare(inputs)
  const start = performance.now()
  await compiled.prepare(inputs)
  times.push([
    String(length),
    `${(compileTime / 1000).toFixed(2)} s`,
    `${(performance.now() - start).toFixed(1)} ms`,
  ])
}
console.log(table(times))
device.destroy()
