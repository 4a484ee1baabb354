/** Where the nodes of a graph come from, and the operations that kernels compute of it. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import {
  type CompiledProgram,
  type Origin,
  type TracedOperation,
  array,
  assign,
  attention,
  compile,
  grad,
  linearCrossEntropy,
  recordOrigins,
  rmsNorm,
  useBackend,
  variable,
} from '../../engine/index.ts'
import { startBackend } from '../support/backend.ts'

const backend = await startBackend()
useBackend(backend)
after(() => backend.close())

/** The number of the line that calls it. */
const here = (): number => Number(/:(\d+):\d+\)?$/.exec(new Error().stack?.split('\n')[2] ?? '')?.[1])

const random = (rows: number, columns: number) =>
  array(
    Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i)),
    [rows, columns],
  )

/** A network with a gradient and an update, as a function to compile and the lines of what it does. */
function makeStep() {
  const [weight, output] = [variable(random(16, 16)), variable(random(24, 16))]
  const lines = { product: 0, attention: 0, split: 0, loss: 0, update: 0 }
  const inputs = { x: random(32, 16), targets: array(new Int32Array(32), [2, 16]) }
  const step = compile(({ x, targets }) => {
    const hidden = ((lines.product = here()), rmsNorm(x.reshape(2, 16, 16)).matmul(weight))
    const mixed = ((lines.attention = here()), attention(hidden, hidden, hidden))
    const exponentials = ((lines.split = here()), mixed.exp())
    const loss =
      ((lines.loss = here()), linearCrossEntropy(exponentials.slice(2, 0, 16), output, targets).loss.mean())
    const [gradient] = grad(loss, [weight])
    update(gradient)
    return { loss }
  })
  function update(gradient: ReturnType<typeof rmsNorm>) {
    lines.update = here() + 1
    assign(weight, weight.sub(gradient.mul(0.1)))
  }
  return { step, lines, inputs }
}

/** Every operation of a step's kernels; of one that is part of several kernels in each. */
async function operationsOf(prepared: Promise<CompiledProgram>): Promise<TracedOperation[]> {
  const compiled = await prepared
  return compiled
    .steps()
    .flatMap(({ kernels }) =>
      kernels.flatMap(({ instructions }) => instructions.flatMap(({ operations = [] }) => operations)),
    )
}

test('operations of kernels name the line, the function and whether it is a gradient', async () => {
  const made = makeStep()
  const stop = recordOrigins()
  const operations = await operationsOf(made.step.prepare(made.inputs))
  stop()
  const { lines } = made
  const origins = (name: string): (Partial<Origin> | undefined)[] =>
    operations.filter(operation => operation.name === name).map(({ origin }) => origin)
  const has = (name: string, line: number, isGradient: boolean, named?: string) =>
    assert(
      origins(name).some(
        origin =>
          origin?.line === line &&
          origin.isGradient === isGradient &&
          (named === undefined || origin.function === named),
      ),
      `${name} of line ${line}: ${JSON.stringify(origins(name))}`,
    )
  assert.equal(operations.filter(({ origin }) => origin?.file !== import.meta.url).length, 0)
  has('matmul', lines.product, false)
  has('matmul', lines.product, true)
  has('attention', lines.attention, false)
  has('attention gradient', lines.attention, true)
  has('exp', lines.split, false)
  has('matmul', lines.loss, false)
  has('subtract', lines.update, false, 'update')
})

test('of a slice that is computed from slices, operations stay those of the lines before it', async () => {
  const x = variable(random(8, 8))
  let line = 0
  const stop = recordOrigins()
  const sliced = compile(() => {
    const doubled = ((line = here()), x.exp().mul(3))
    return { half: doubled.slice(0, 0, 4) }
  })
  const operations = await operationsOf(sliced.prepare())
  stop()
  assert.deepEqual(
    operations.map(({ name, origin }) => [name, origin?.line]),
    [
      ['exp', line],
      ['multiply', line],
    ],
  )
})

test('no stack is looked at unless origins are asked for, and a program is the same with them', async () => {
  const { captureStackTrace } = Error
  let captured = 0
  Error.captureStackTrace = (...args) => {
    captured++
    captureStackTrace(...args)
  }
  try {
    const untraced = makeStep()
    const plain = await operationsOf(untraced.step.prepare(untraced.inputs))
    assert.deepEqual([plain, captured], [[], 0])
    const stop = recordOrigins()
    const { step, inputs } = makeStep()
    const traced = await step.prepare(inputs)
    stop()
    assert(captured > 0)
    const again = await untraced.step.prepare(untraced.inputs)
    const kernels = ({ steps }: typeof traced) =>
      steps().map(({ kernels }) => kernels.map(({ name }) => name))
    assert.deepEqual(kernels(traced), kernels(again))
  } finally {
    Error.captureStackTrace = captureStackTrace
  }
})
