import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { type SplitInstruction, splitColumns } from '../../engine/cpu/passes/column-layout.ts'
import {
  type Compiled,
  type Inputs,
  type NDArray,
  type Tensor,
  array,
  attention,
  compile,
  concat,
  cpuBackend,
  gelu,
  grad,
  randomNormal,
  useBackend,
  variable,
} from '../../engine/index.ts'
import type { Instruction, Program } from '../../engine/compiler/program.ts'
import { relativeError } from '../golden/golden.ts'

const backend = await cpuBackend({ threads: 2, alone: 0 })
useBackend(backend)
after(() => backend.close())

// Every program that is loaded is noted.
let program: Program | undefined
const load = backend.load.bind(backend)
backend.load = (loaded, storages) => {
  program = loaded
  return load(loaded, storages)
}

/** deepEqual would take a minute to say what differs. */
function assertSame(actual: NDArray, expected: NDArray): void {
  const differs = actual.data.findIndex((value, i) => value !== expected.data[i])
  assert.equal(differs, -1, `element ${differs} is ${actual.data[differs]}, not ${expected.data[differs]}`)
}

const tileColumns = 16
const [sequences, length, dim] = [8, 64, 64]

const normal = (size: number) =>
  Float32Array.from({ length: size }, () => Math.sqrt(12) * (Math.random() - 0.5))
const batchOf = (rows: number, dim: number) => array(normal(rows * dim), [rows, dim])

/**
 * A block with a projection that is split in four, two of which are split again, and a gradient joined from them.
 * Returns a function of rows x [sequences * length, dim]: the result, and what was projected.
 */
function block(dim: number) {
  const narrow = dim / 4
  const widths = [narrow, narrow, 2 * dim, 2 * dim]
  const expand = variable(randomNormal([2 * narrow + 4 * dim, dim], 1, dim ** -0.5))
  const project = variable(randomNormal([dim, 2 * dim], 2, dim ** -0.5))
  const forward = (x: Tensor) => {
    const expanded = x.matmul(expand.T)
    const inSequences = (tensor: Tensor) => tensor.reshape(-1, length, tensor.shape[1])
    const [query, key, linear, gate] = expanded.split(widths)
    const [local, value] = linear.mul(gelu(gate)).split([dim, dim])
    const mixed = attention(inSequences(query), inSequences(key), inSequences(value)).reshape(-1, dim)
    return { result: x.add(concat([local, mixed]).matmul(project.T)), expanded }
  }
  /** The gradients of the sum of its squares. */
  const gradients = (result: Tensor) => {
    const [dExpand, dProject] = grad(result.square().sum(), [expand, project])
    return { dExpand, dProject }
  }
  return { forward, gradients }
}

/** The parts of a function's program. */
async function partsOf(compiled: Compiled<unknown>, inputs: Inputs): Promise<readonly SplitInstruction[]> {
  await compiled.prepare(inputs)
  assert.ok(program)
  return splitColumns(program, tileColumns)
}

/** Strides of operands that are pieces of longer rows. */
const stridesOfPieces = (instructions: readonly Instruction[]) =>
  instructions.flatMap(({ work }) => {
    if (work.kind !== 'rows') return []
    const loads = work.values.flatMap(({ operation }) =>
      operation.kind === 'load' ? [operation.access] : [],
    )
    return [...loads, ...work.stores.map(({ access }) => access)]
      .filter(({ columnStride }) => columnStride === 1)
      .flatMap(({ rowDims }) => rowDims.map(([, stride]) => stride))
      .filter(stride => stride > work.columns)
  })

test('columns that are used apart are stored apart', async () => {
  const { forward, gradients } = block(dim)
  const compiled = compile(({ x }) => gradients(forward(x).result))
  const parts = await partsOf(compiled, { x: batchOf(sequences * length, dim) })
  assert.ok(program && stridesOfPieces(program.instructions).length > 0)
  assert.deepEqual(stridesOfPieces(parts), [])
  // Query and key, 16 columns each, stay together.
  const [first] = parts.filter(({ parts }) => parts === 5)
  const widths = parts.map(({ work, parallel }) =>
    parallel === first.parallel && work.kind === 'matmul' ? [work.n] : [],
  )
  assert.deepEqual(widths.flat(), [32, 64, 64, 64, 64])
})

test('products with what is apart are the same to the last bit', async () => {
  const { forward, gradients } = block(dim)
  const inputs = { x: batchOf(sequences * length, dim) }
  const apart = compile(({ x }) => {
    const { result } = forward(x)
    return { result, ...gradients(result) }
  })
  // What the caller gets is one piece of memory.
  const whole = compile(({ x }) => {
    const { result, expanded } = forward(x)
    return { result, ...gradients(result), expanded }
  })
  const count = async (compiled: Compiled<unknown>) => (await partsOf(compiled, inputs)).length
  assert.ok((await count(apart)) > (await count(whole)))
  const [actual, expected] = [await apart(inputs), await whole(inputs)]
  assertSame(actual.result, expected.result)
  assertSame(actual.dExpand, expected.dExpand)
  assertSame(actual.dProject, expected.dProject)
})

test('so are products with some of the columns, from the middle of them', async () => {
  const [wide, narrow] = [variable(randomNormal([4 * dim, dim], 1)), variable(randomNormal([3 * dim, 32], 2))]
  const inputs = { x: batchOf(sequences * length, dim) }
  const forward = (x: Tensor) => {
    const made = x.matmul(wide.T)
    const parts = made.split([dim, 2 * dim, dim]).map((part, i) => part.mul(i + 1).sum(1))
    return { made, parts: concat(parts), product: made.slice(1, dim, 4 * dim).matmul(narrow) }
  }
  const apart = compile(({ x }) => {
    const { product, parts } = forward(x)
    return { product, parts }
  })
  const whole = compile(({ x }) => forward(x))
  assert.ok((await partsOf(apart, inputs)).some(({ parts }) => parts === 3))
  assert.ok((await partsOf(whole, inputs)).every(({ parts }) => parts === 1))
  const [actual, expected] = [await apart(inputs), await whole(inputs)]
  assertSame(actual.product, expected.product)
  assertSame(actual.parts, expected.parts)
})

test('many sequences, apart, give what each gives alone, small enough to be whole', async () => {
  const { forward, gradients } = block(dim)
  const compiled = compile(({ x }) => gradients(forward(x).result))
  const rows = normal(sequences * length * dim)
  const all = { x: array(rows, [sequences * length, dim]) }
  const one = (i: number) => {
    const size = length * dim
    return { x: array(rows.slice(i * size, (i + 1) * size), [length, dim]) }
  }
  assert.ok((await partsOf(compiled, all)).some(({ parts }) => parts > 1))
  assert.ok((await partsOf(compiled, one(0))).every(({ parts }) => parts === 1))
  const together = await compiled(all)
  for (const name of ['dExpand', 'dProject'] as const) {
    const sum = new Float64Array(together[name].data.length)
    for (let i = 0; i < sequences; i++)
      (await compiled(one(i)))[name].data.forEach((value, j) => (sum[j] += value))
    const error = relativeError(together[name].data, Float32Array.from(sum))
    assert.ok(error < 1e-5, `${name}: ${error}`)
  }
})

test('a matrix stays whole where its parts would fill tiles badly', async () => {
  const { forward, gradients } = block(72)
  const compiled = compile(({ x }) => gradients(forward(x).result))
  const parts = await partsOf(compiled, { x: batchOf(sequences * length, 72) })
  assert.ok(parts.every(({ parts }) => parts === 1))
})
