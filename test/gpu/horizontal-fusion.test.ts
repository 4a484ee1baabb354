import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { type GpuBackend, gpuBackend } from '../../engine/gpu/runtime/backend.ts'
import { GpuError } from '../../engine/gpu/runtime/device.ts'
import {
  type Backend,
  type Compiled,
  type NDArray,
  type Tensor,
  type Variable,
  array,
  assign,
  compile,
  cpuBackend,
  full,
  grad,
  randomNormal,
  useBackend,
  variable,
} from '../../engine/index.ts'
import { testGpu } from '../support/strict-gpu.ts'

// Equal programs that run as one kernel, over memory that is brought together for them.

const open = async (precision: 'f32' | 'f16') => gpuBackend({ gpu: await testGpu(), precision })
const gpu = await open('f32').catch((error: unknown) => {
  if (error instanceof GpuError) return undefined
  throw error
})
const half = gpu?.target.f16 ? await open('f16') : undefined
const cpu = await cpuBackend({ threads: 1 })
after(async () => {
  for (const backend of [gpu, half, cpu]) await backend?.close()
})
const skip = gpu ? false : 'no GPU'

let seeds = 0
const normal = (...shape: number[]) => variable(randomNormal(shape, seeds++, 0.1))
const zeros = (shape: readonly number[]) => variable(full(shape, 0))
const vectors = (count: number, size: number) =>
  array(Float32Array.from({ length: count * size }, wave), [count, size])
const wave = (_: unknown, i: number) => Math.sin(i * 0.7)

interface Slot {
  readonly parameter: Variable
  readonly first: Variable
  readonly second: Variable
}

const slotOf = (parameter: Variable): Slot => ({
  parameter,
  first: zeros(parameter.shape),
  second: zeros(parameter.shape),
})

function adam({ parameter, first, second }: Slot, gradient: Tensor): void {
  const average = first.mul(0.9).add(gradient.mul(0.1))
  const square = second.mul(0.99).add(gradient.square().mul(0.01))
  assign(first, average)
  assign(second, square)
  assign(parameter, parameter.sub(average.div(square.sqrt().add(1e-3)).mul(0.05)))
}

/** Layers of a matrix, a gain, and a factor; a step is backpropagation, and Adam. */
function network(layers: number) {
  const parts = Array.from({ length: layers }, () => ({
    weights: normal(64, 48),
    back: normal(48, 64),
    gain: normal(48),
    factor: normal(1),
  }))
  const slots = parts.flatMap(({ weights, back, gain, factor }) => [weights, back, gain, factor]).map(slotOf)
  const forward = (x: Tensor) =>
    parts.reduce(
      (x, { weights, back, gain, factor }) =>
        x.add(x.matmul(weights).mul(gain).tanh().matmul(back).mul(factor.exp())),
      x,
    )
  const step = compile(({ x }) => {
    const loss = forward(x).tanh().square().mean()
    const gradients = grad(
      loss,
      slots.map(({ parameter }) => parameter),
    )
    slots.forEach((slot, i) => adam(slot, gradients[i]))
    return { loss }
  })
  const evaluate = compile(({ x }) => ({ y: forward(x) }))
  return { step, evaluate, slots }
}

/** What a body gives on a backend, with the same variables each time. */
async function on<Result>(backend: Backend, body: () => Promise<Result>): Promise<Result> {
  seeds = 0
  useBackend(backend)
  return body()
}

/** bound: relative to the largest number of a result. */
function assertClose(actual: readonly NDArray[], expected: readonly NDArray[], bound: number): void {
  assert.equal(actual.length, expected.length)
  actual.forEach(({ data }, i) => {
    const wanted = expected[i].data
    const scale = Math.max(...wanted.map(Math.abs))
    const error = Math.max(...data.map((x, at) => Math.abs(x - wanted[at]))) / scale
    assert.ok(error <= bound, `result ${i} is off by ${error}, of ${bound} at most`)
  })
}

/** Runs a body on the GPU and on the CPU, and compares what it gives. */
async function compare(body: () => Promise<NDArray[]>, backend: GpuBackend | undefined = gpu, bound = 1e-5) {
  assert.ok(backend)
  assertClose(await on(backend, body), await on(cpu, body), bound)
}

const read = (variables: readonly Variable[]): Promise<NDArray[]> =>
  Promise.all(variables.map(variable => variable.read()))

const all = (slots: readonly Slot[]): Variable[] =>
  slots.flatMap(({ parameter, first, second }) => [parameter, first, second])

/** A step of Adam with these gradients. */
function updates(slots: readonly Slot[]): Compiled<void> {
  return compile(inputs => slots.forEach((slot, i) => adam(slot, inputs[`gradient${i}`])))
}

const gradientsFor = (slots: readonly Slot[]) =>
  Object.fromEntries(
    slots.map(({ parameter: { shape, size } }, i) => [
      `gradient${i}`,
      array(
        Float32Array.from({ length: size }, (_, at) => Math.cos(at + i)),
        shape,
      ),
    ]),
  )

test('as many kernels update few parameters as many', { skip }, async () => {
  assert.ok(gpu)
  const dispatches = (count: number) =>
    on(gpu, async () => {
      const shapes = [[300, 20], [7], [64, 64], [1]]
      const slots = Array.from({ length: count }, (_, i) => slotOf(normal(...shapes[i % shapes.length])))
      return (await updates(slots).prepare(gradientsFor(slots))).dispatches
    })
  const few = await dispatches(8)
  assert.ok(few <= 4, `${few} kernels`)
  assert.equal(await dispatches(40), few)
})

test('parameters of all sizes are updated as on the CPU', { skip }, () =>
  compare(async () => {
    const slots = [[300, 20], [7], [3, 5], [1], [], [64, 64], [1], [129]].map(shape =>
      slotOf(normal(...shape)),
    )
    const step = updates(slots)
    for (let i = 0; i < 3; i++) await step(gradientsFor(slots))
    return read(all(slots))
  }),
)

test(
  'a network learns as on the CPU, and what reads its parameters in other programs sees them',
  { skip },
  () =>
    compare(
      async () => {
        const { step, evaluate, slots } = network(3)
        const x = vectors(16, 64)
        const results: NDArray[] = []
        // Before and after the parameters move.
        results.push((await evaluate({ x })).y)
        for (let i = 0; i < 3; i++) results.push((await step({ x })).loss)
        results.push((await evaluate({ x })).y)
        await slots[0].parameter.write(array(new Float32Array(64 * 48).fill(0.01), [64, 48]))
        results.push((await evaluate({ x })).y, (await step({ x: vectors(8, 64) })).loss)
        return [...results, ...(await read(all(slots)))]
      },
      gpu,
      1e-4,
    ),
)

test('with f16 copies of parameters too', { skip: half ? false : 'no f16' }, async () => {
  assert.ok(half)
  const backend = half
  const body = async () => {
    const { step, evaluate, slots } = network(2)
    const x = vectors(16, 64)
    const before = (await evaluate({ x })).y
    const losses = [(await step({ x })).loss, (await step({ x })).loss]
    const [first] = slots
    const value = await first.parameter.read()
    // To other values and back: the copy has to follow.
    await first.parameter.write(array(new Float32Array(64 * 48), [64, 48]))
    const other = (await evaluate({ x })).y
    await first.parameter.write(value)
    return [before, ...losses, other, (await evaluate({ x })).y]
  }
  await compare(body, backend, 0.05)
  const [once, twice] = [await on(backend, body), await on(backend, body)]
  assert.deepEqual(once, twice, 'runs repeat to the last bit')
})

test('an update that needs another one comes after it', { skip }, async () => {
  const program = () => {
    const [a, b, m] = [normal(32, 32), normal(32, 32), normal(32, 32)]
    const step = compile(() => {
      const next = a.mul(0.9).add(1)
      assign(a, next)
      // Of the new a.
      assign(b, b.mul(0.9).add(1))
      assign(m, m.mul(0.9).add(next.matmul(b)))
    })
    return { step, variables: [a, b, m] }
  }
  await compare(
    async () => {
      const { step, variables } = program()
      await step()
      await step()
      return read(variables)
    },
    gpu,
    1e-4,
  )
})

test('what reads the old value comes before an update that would wait for others', { skip }, () =>
  compare(
    async () => {
      const [a, b, c] = [normal(32, 32), normal(32, 32), normal(32, 32)]
      const step = compile(() => {
        const product = a.matmul(c)
        const updated = b.mul(0.5).add(product.matmul(product))
        assign(a, a.mul(0.5).add(b.matmul(b)))
        assign(b, updated)
        assign(c, c.mul(0.5).add(updated))
        return { before: a.sum() }
      })
      const { before } = await step()
      return [before, ...(await read([a, b, c]))]
    },
    gpu,
    1e-3,
  ),
)

test('variables with the same gradient, and one that another is made from', { skip }, () =>
  compare(async () => {
    const [a, b, c, square] = [normal(40), normal(40), normal(40), normal(5, 8)]
    const tied = compile(({ gradient }) => {
      assign(a, a.sub(gradient.mul(0.1)))
      assign(square, square.sub(gradient.reshape(5, 8).mul(0.1)))
    })
    const own = compile(({ x, y, z }) => {
      assign(a, a.mul(0.9).add(x))
      assign(b, b.mul(0.9).add(y))
      assign(c, c.mul(0.9).add(z))
    })
    // Reads one and writes another, which lie next to each other by then.
    const copy = compile(() => assign(a, b.add(a.mul(0.5))))
    const gradient = array(Float32Array.from({ length: 40 }, wave), [40])
    await copy()
    await tied({ gradient })
    await own({ x: gradient, y: gradient, z: gradient })
    await copy()
    await own({ x: gradient, y: gradient, z: gradient })
    return read([a, b, c, square])
  }),
)

test('programs that bring other variables together leave those that are', { skip }, async () => {
  const counts: number[] = []
  await compare(async () => {
    const variables = Array.from({ length: 6 }, () => normal(50))
    const update = (some: readonly Variable[]) =>
      compile(({ rate }) => some.forEach(each => assign(each, each.sub(each.square().mul(rate)))))
    const [even, odd] = [0, 1].map(first => variables.filter((_, i) => i % 2 === first))
    const [a, b, c, d] = [even, variables, odd.toReversed(), even.slice(1)].map(update)
    for (const step of [a, b, c, d, b, a]) await step({ rate: 0.1 })
    const backwards = update(even.toReversed())
    counts.push((await backwards.prepare({ rate: 0.1 })).dispatches)
    await backwards({ rate: 0.1 })
    return read(variables)
  })
  assert.equal(counts[0], 1, 'in any order they are one kernel on the GPU, once they are together')
})

test('sums over rows of several tensors, in one kernel', { skip }, async () => {
  assert.ok(gpu)
  const body = (count: number) => () => {
    const weights = Array.from({ length: count }, () => normal(24))
    const step = compile(({ x }) => {
      const loss = weights.reduce((sum, w) => sum.add(x.mul(w).tanh().square().mean()), full([], 0))
      grad(loss, weights).forEach((gradient, i) => assign(weights[i], weights[i].sub(gradient)))
      return { loss }
    })
    return { step, weights }
  }
  await compare(async () => {
    const { step, weights } = body(5)()
    const { loss } = await step({ x: vectors(600, 24) })
    return [loss, ...(await read(weights))]
  })
})

test('as much is allocated as variables take, and temporaries as planned', { skip }, async () => {
  const backend = await open('f32')
  try {
    await on(backend, async () => {
      const slots = [[64, 64], [128], [32, 8]].map(shape => slotOf(normal(...shape)))
      const step = updates(slots)
      const { temporaryBytes, variableBytes } = await step.prepare(gradientsFor(slots))
      await step(gradientsFor(slots))
      assert.deepEqual(backend.allocated, { variableBytes, temporaryBytes })
      await step(gradientsFor(slots))
      assert.deepEqual(backend.allocated, { variableBytes, temporaryBytes })
    })
  } finally {
    await backend.close()
  }
})
