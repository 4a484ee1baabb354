import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { type NDArray, array } from '../../engine/index.ts'
import { UserError } from '../../common/errors.ts'
import { openSafetensors, writeSafetensors } from '../../run/checkpoint/safetensors.ts'
import { readGolden } from '../golden/golden.ts'

const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
after(() => rmSync(folder, { recursive: true }))

const stored = (value: NDArray) => ({ shape: value.shape, dtype: value.dtype, read: async () => value })

async function bytesOf(tensors: Record<string, NDArray>, metadata = {}): Promise<Buffer> {
  const parts: Uint8Array[] = []
  const entries = Object.entries(tensors).map(([name, value]) => [name, stored(value)] as const)
  await writeSafetensors(async bytes => void parts.push(bytes.slice()), entries, metadata)
  return Buffer.concat(parts)
}

function fileOf(bytes: Uint8Array): string {
  const path = join(folder, 'some.safetensors')
  writeFileSync(path, bytes)
  return path
}

test('what was written is read back, to the last bit', async () => {
  const tensors = {
    'embedding.weight': array(Float32Array.of(1.5, -0, NaN, Infinity, 1e-45, 0.1), [2, 3]),
    tokens: array(Int32Array.of(-1, 2 ** 31 - 1)),
    scalar: array(Float32Array.of(7), []),
    none: array(new Float32Array(0), [0, 4]),
  }
  const file = await openSafetensors(fileOf(await bytesOf(tensors, { note: 'é' })))
  assert.deepEqual([...file.shapes.keys()], Object.keys(tensors))
  assert.equal(file.metadata.get('note'), 'é')
  for (const [name, tensor] of Object.entries(tensors)) {
    const { data, shape } = await file.read(name)
    assert.deepEqual(shape, tensor.shape)
    assert.deepEqual(data, tensor.data)
  }
  await file.close()
})

test("PyTorch's files are read, bfloat16 widened", async () => {
  for (const name of ['trajectory', 'latent_64', 'head']) {
    const golden = readGolden(name)
    const file = await openSafetensors(new URL(`../golden/${name}.safetensors`, import.meta.url).pathname)
    let compared = 0
    for (const tensor of file.shapes.keys()) {
      const { data, shape } = await file.read(tensor)
      assert.equal(
        data.length,
        shape.reduce((product, length) => product * length, 1),
      )
      if (data instanceof Int32Array) assert.deepEqual(data, golden.int(tensor).data)
      else if (shape.length > 1) assert.deepEqual(data, golden.float(tensor).data)
      else continue
      compared++
    }
    assert.ok(compared > 0)
    await file.close()
  }
})

test('float16 and float64 become float32', async () => {
  const header = JSON.stringify({
    half: { dtype: 'F16', shape: [2], data_offsets: [0, 4] },
    pad: { dtype: 'F16', shape: [2], data_offsets: [4, 8] },
    double: { dtype: 'F64', shape: [1], data_offsets: [8, 16] },
  })
  const bytes = Buffer.alloc(8 + header.length + 16)
  bytes.writeBigUInt64LE(BigInt(header.length))
  bytes.write(header, 8)
  bytes.writeUInt16LE(0x3c00, 8 + header.length)
  bytes.writeUInt16LE(0xc100, 10 + header.length)
  bytes.writeDoubleLE(0.1, 16 + header.length)
  const file = await openSafetensors(fileOf(bytes))
  assert.deepEqual([...(await file.read('half')).data], [1, -2.5])
  assert.deepEqual([...(await file.read('double')).data], [Math.fround(0.1)])
  await file.close()
})

/** A file of a header that is written as it is here, and so many bytes. */
function withHeader(header: string, bytes: number): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)))
  return Buffer.concat([length, Buffer.from(header), Buffer.alloc(bytes)])
}

test('tensors share no bytes, leave none out, and have a name and what else they have once', async () => {
  const tensor = (start: number, shape = '[1]') =>
    `{"dtype":"F32","shape":${shape},"data_offsets":[${start},${start + 4}]}`
  const wrong: [header: string, bytes: number, message: RegExp][] = [
    [`{"a":${tensor(0)},"b":${tensor(2)}}`, 6, /its tensor b begins within another one/],
    [`{"a":${tensor(0)},"b":${tensor(0)}}`, 4, /its tensor b begins within another one/],
    [`{"a":${tensor(0)},"b":${tensor(8)}}`, 12, /before its tensor b are bytes of no tensor/],
    [`{"a":${tensor(4)}}`, 8, /before its tensor a are bytes of no tensor/],
    [`{"a":${tensor(0)},"a":${tensor(0, '[1,1]')}}`, 4, /its header has a twice/],
    [`{"a":${tensor(0)},"\\u0061":${tensor(4)}}`, 8, /its header has a twice/],
    [`{"a":{"dtype":"I32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4, /has dtype twice/],
    [`{"a":${tensor(0, '[9007199254740992,0]')}}`, 4, /lacks a dtype, a shape or offsets/],
    [`{"a":${tensor(0, '[1e15,1e15,0]')}}`, 4, /has other bytes than its shape says/],
    ['{"\u001b[2J', 0, /^\P{Cc}*$/u],
  ]
  for (const [header, bytes, message] of wrong) {
    await assert.rejects(openSafetensors(fileOf(withHeader(header, bytes))), error => {
      assert.ok(error instanceof UserError, String(error))
      assert.match(error.message, message)
      return true
    })
  }
  const file = await openSafetensors(
    fileOf(
      withHeader(
        `{"b":${tensor(4)},"a":${tensor(0)},"e":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}`,
        16,
      ),
    ),
  )
  assert.deepEqual([...file.dtypes], [['b', 'F32'], ['a', 'F32'], ['e', 'I64']]) // prettier-ignore
  assert.deepEqual([...(await file.read('a')).data], [0])
  await assert.rejects(file.read('e'), /has e as I64, a dtype that is not supported/)
  await file.close()
})

test('a file that is not whole is refused in one sentence that names it', async () => {
  const whole = await bytesOf({ a: array(Float32Array.of(1, 2, 3)) })
  const altered = (from: string, to: string) =>
    Buffer.from(whole.toString('latin1').replace(from, to), 'latin1')
  const wrong = [
    whole.subarray(0, 4),
    whole.subarray(0, 40),
    whole.subarray(0, -1),
    Buffer.concat([whole, Buffer.of(0)]),
    altered('"F32"', '"F16"'),
    altered('[0,12]', '[12,0]'),
    altered('[3]', '[4]'),
    altered('[0,12]', '[0,-2]'),
    altered('{"__', '["__'),
    Buffer.from('PK\u0003\u0004 a zip file, and not a short one'),
    Buffer.alloc(0),
    Buffer.alloc(100, 0xff),
  ]
  for (const bytes of wrong) {
    await assert.rejects(openSafetensors(fileOf(bytes)), error => {
      assert.ok(error instanceof UserError, String(error))
      assert.match(error.message, /^\S+some\.safetensors is not a whole safetensors file: [^\n]+\.$/)
      return true
    })
  }
  await assert.rejects(openSafetensors(join(folder, 'other')), /There is no file .*other/)
  await assert.rejects(openSafetensors(folder), UserError)
  assert.equal(readFileSync(fileOf(whole)).length, whole.length)
})
