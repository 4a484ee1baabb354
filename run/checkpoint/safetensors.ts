/** Reads and writes .safetensors files: https://huggingface.co/docs/safetensors */
import type { FileHandle } from 'node:fs/promises'
import { openRegular } from '../../common/regular-file.ts'
import { NDArray, type Shape } from '../../engine/index.ts'
import { UserError, reasonOf } from '../../common/errors.ts'
import { duplicateKey, isRecord } from '../../common/json.ts'

/** A tensor that can be written, such as a variable of the engine. */
export type Storable = {
  readonly shape: Shape
  readonly dtype: string
  read(): Promise<NDArray>
}

/** An open .safetensors file. */
export type Safetensors = {
  /** The shape of each tensor, by name. */
  readonly shapes: ReadonlyMap<string, Shape>
  /** The dtype of each tensor in the file, by the format's names: F32, BF16, I64. */
  readonly dtypes: ReadonlyMap<string, string>
  readonly metadata: ReadonlyMap<string, string>
  /**
   * The values of a tensor: F16, BF16, F32 and F64 as float32, and I32 as int32. Throws a UserError for another dtype, and
   * if there is no such tensor.
   */
  read(name: string): Promise<NDArray>
  close(): Promise<void>
}

type Entry = { dtype: string; shape: number[]; start: number; end: number }

const dtypes = new Map([
  ['float32', 'F32'],
  ['int32', 'I32'],
])
/** Bytes per number of each dtype with whole bytes. A file may have tensors of other dtypes, which are not checked. */
const bytesOf = new Map([
  ...['BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0'].map(name => [name, 1] as const),
  ...['F16', 'BF16', 'I16', 'U16'].map(name => [name, 2] as const),
  ...['F32', 'I32', 'U32'].map(name => [name, 4] as const),
  ...['F64', 'I64', 'U64', 'C64'].map(name => [name, 8] as const),
])
/** The dtypes that are read as float32. */
export const floatTypes: readonly string[] = ['F16', 'BF16', 'F32', 'F64']
// The limit of the format.
const longestHeader = 100_000_000

/** Writes tensors in the safetensors format, one at a time, so that only one has to be in memory. */
export async function writeSafetensors(
  write: (bytes: Uint8Array) => Promise<void>,
  tensors: readonly (readonly [name: string, tensor: Storable])[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  let end = 0
  const entries = tensors.map(([name, { shape, dtype }]) => {
    const start = end
    end += shape.reduce((product, length) => product * length, 4)
    return [name, { dtype: dtypes.get(dtype) ?? dtype, shape, data_offsets: [start, end] }] as const
  })
  const header = Buffer.from(
    JSON.stringify({ __metadata__: { format: 'pt', ...metadata }, ...Object.fromEntries(entries) }),
  )
  const padded = Buffer.alloc(8 + Math.ceil(header.length / 8) * 8, ' ') // so that the tensors begin at a multiple of 8
  padded.writeBigUInt64LE(BigInt(padded.length - 8))
  padded.set(header, 8)
  await write(padded)
  for (const [, tensor] of tensors) {
    const { data } = await tensor.read()
    await write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
}

/** Opens a .safetensors file. Throws a UserError if there is none, or if it is incomplete or malformed. */
export async function openSafetensors(path: string): Promise<Safetensors> {
  const file = await openRegular(path)
  try {
    const { size } = await file.stat()
    const length = size < 8 ? NaN : Number((await readExactly(file, 0, 8)).readBigUInt64LE())
    if (!(length <= size - 8)) throw new Error('it has no header')
    if (length > longestHeader)
      throw new Error(`its header has ${length} bytes, and the format allows ${longestHeader}`)
    const { entries, metadata } = parseHeader((await readExactly(file, 8, length)).toString())
    const end = 8 + length + lastByte(entries)
    if (size !== end) throw new Error(`it has ${size} bytes, and should have ${end}`)
    return {
      shapes: new Map([...entries].map(([name, { shape }]) => [name, shape])),
      dtypes: new Map([...entries].map(([name, { dtype }]) => [name, dtype])),
      metadata,
      async read(name) {
        const entry = entries.get(name)
        if (!entry) throw new UserError(`${path} has no tensor ${name}.`)
        const { dtype, shape, start, end } = entry
        if (dtype !== 'I32' && !floatTypes.includes(dtype)) {
          throw new UserError(`${path} has ${name} as ${dtype}, a dtype that is not supported.`)
        }
        const bytes = await readExactly(file, 8 + length + start, end - start).catch((error: unknown) => {
          throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
        })
        return new NDArray(toNumbers(dtype, bytes), shape)
      },
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw new UserError(`${path} is not a whole safetensors file: ${reasonOf(error)}.`)
  }
}

function parseHeader(text: string): { entries: Map<string, Entry>; metadata: Map<string, string> } {
  const header: unknown = JSON.parse(text)
  if (!isRecord(header)) throw new Error('its header is not an object')
  const twice = duplicateKey(text)
  if (twice !== undefined) throw new Error(`its header has ${twice} twice`)
  const { __metadata__: metadata, ...tensors } = header
  const entries = Object.entries(tensors).map(([name, entry]) => [name, parseEntry(name, entry)] as const)
  const notes = isRecord(metadata) ? Object.entries(metadata).map(([k, v]) => [k, String(v)] as const) : []
  return { entries: new Map(entries), metadata: new Map(notes) }
}

function parseEntry(name: string, entry: unknown): Entry {
  if (!isRecord(entry)) throw new Error(`its tensor ${name} is not an object`)
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string' || !isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
    throw new Error(`its tensor ${name} lacks a dtype, a shape or offsets`)
  }
  const bytes = bytesOf.get(dtype)
  const [start, end] = offsets
  if (bytes !== undefined && end - start !== shape.reduce((product, length) => product * length, bytes)) {
    throw new Error(`its tensor ${name} has other bytes than its shape says`)
  }
  return { dtype, shape, start, end }
}

/** The end of the last tensor. The format requires that tensors are contiguous: no overlaps and no gaps. */
function lastByte(entries: ReadonlyMap<string, Entry>): number {
  let last = 0
  for (const [name, { start, end }] of [...entries].toSorted(
    ([, a], [, b]) => a.start - b.start || a.end - b.end,
  )) {
    if (start < last || end < start) throw new Error(`its tensor ${name} begins within another one`)
    if (start > last) throw new Error(`before its tensor ${name} are bytes of no tensor`)
    last = end
  }
  return last
}

/** The numbers in these bytes, which are aligned to the size of a number. */
function toNumbers(dtype: string, { buffer, byteOffset, length }: Buffer): Float32Array | Int32Array {
  if (dtype === 'I32') return new Int32Array(buffer, byteOffset, length / 4)
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, length / 4)
  if (dtype === 'F64') return Float32Array.from(new Float64Array(buffer, byteOffset, length / 8))
  if (dtype === 'F16') return Float32Array.from(new Float16Array(buffer, byteOffset, length / 2))
  // A bfloat16 is the upper 16 bits of a float32.
  const wide = Uint32Array.from(new Uint16Array(buffer, byteOffset, length / 2), bits => bits << 16)
  return new Float32Array(wide.buffer)
}

/** Reads `length` bytes from a position in the file into new memory. */
async function readExactly(file: FileHandle, position: number, length: number): Promise<Buffer<ArrayBuffer>> {
  const bytes = Buffer.from(new ArrayBuffer(length))
  let done = 0
  while (done < length) {
    // A single read stops at 2 GiB.
    const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), position + done)
    if (bytesRead === 0) throw new Error('it ends too early')
    done += bytesRead
  }
  return bytes
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every(item => Number.isSafeInteger(item) && item >= 0)
