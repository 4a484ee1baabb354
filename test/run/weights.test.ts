import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { full, variable } from '../../engine/index.ts'
import { loadWeights } from '../../run/checkpoint/weights.ts'
import { startBackend } from '../support/backend.ts'
import { refusal } from '../support/refusal.ts'

await startBackend()
const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-weights-'))
const path = join(folder, 'some.safetensors')
after(() => rmSync(folder, { recursive: true }))

type Part = { dtype: string; shape: number[]; bytes: ArrayBufferView }
const floats = (...numbers: number[]): Part => ({
  dtype: 'F32',
  shape: [numbers.length],
  bytes: Float32Array.from(numbers),
})

/** Writes a file of these tensors as the format has it, and gives it to a network of a vector of 3. */
async function load(parts: Record<string, Part>) {
  let end = 0
  const header = Object.entries(parts).map(([name, { dtype, shape, bytes }]) => {
    end += bytes.byteLength
    return [name, { dtype, shape, data_offsets: [end - bytes.byteLength, end] }] as const
  })
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const data = Object.values(parts).map(({ bytes }) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  )
  writeFileSync(path, Buffer.concat([length, json, ...data]))
  const network = { scale: variable(full([3], 0)) }
  const warnings: string[] = []
  await loadWeights(path, network, message => warnings.push(message))
  return { numbers: [...(await network.scale.read()).data], warnings }
}

test('tensors of every dtype may lie beside the weights, and are named', async () => {
  const parts: Record<string, Part> = {
    ids: { dtype: 'I64', shape: [2], bytes: new BigInt64Array(2) },
    mask: { dtype: 'BOOL', shape: [3], bytes: new Uint8Array(3) },
    codes: { dtype: 'U8', shape: [], bytes: new Uint8Array(1) },
    small: { dtype: 'F8_E4M3', shape: [2, 2], bytes: new Uint8Array(4) },
    tiny: { dtype: 'F4', shape: [4], bytes: new Uint8Array(2) },
    none: { dtype: 'F32', shape: [0, 4], bytes: new Uint8Array(0) },
  }
  const names = Object.keys(parts)
  const { numbers, warnings } = await load({ ...parts, scale: floats(1, 2, 3), 'optimizer.x': floats(1) })
  assert.deepEqual(numbers, [1, 2, 3])
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, new RegExp(`Not used of .*: ${names.join(', ')}, which this network does not`))
  assert.deepEqual((await load({ scale: floats(1, 2, 3), 'optimizer.x': floats(1) })).warnings, [])
})

test('weights that the network does not have are refused', async () => {
  await assert.rejects(
    load({ scale: floats(1, 2, 3), bias: floats(1) }),
    refusal(/of another network: it has bias, which this one has no place for/),
  )
})

test('weights of another dtype, which are not finite, or of another shape are refused', async () => {
  const scale = (dtype: string, bytes: ArrayBufferView, shape = [3]) => ({ scale: { dtype, shape, bytes } })
  await assert.rejects(
    load(scale('I32', new Int32Array(3))),
    refusal(/has scale as I32, .* takes F16, BF16,/),
  )
  await assert.rejects(load(scale('I64', new BigInt64Array(3))), refusal(/has scale as I64/))
  await assert.rejects(load(scale('F8_E5M2', new Uint8Array(3))), refusal(/has scale as F8_E5M2/))
  await assert.rejects(load(scale('F\u001b[2J', new Uint8Array(3))), refusal(/has scale as F\\u\{1b\}\[2J,/))
  await assert.rejects(load({ scale: floats(1, NaN, 3) }), refusal(/in scale, number 1 is NaN as float32/))
  await assert.rejects(
    load(scale('F64', Float64Array.of(1, 2, 1e300))),
    refusal(/in scale, number 2 is Infinity as float32/),
  )
  await assert.rejects(load({ scale: floats(1, 2) }), refusal(/its scale is \[2\], and here it is \[3\]/))
  await assert.rejects(load(scale('F32', Float32Array.of(1), [])), refusal(/its scale is \[\], and here/))
  await assert.rejects(load({ 'b\u001b[2J': floats(1) }), refusal(/it has b\\u\{1b\}\[2J, which/))
})
