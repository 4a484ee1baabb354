/**
 * Reads the .safetensors files of this folder: PyTorch's values, made by make.py, which says what each
 * file holds and what its numbers mean.
 *
 *     const golden = readGolden('latent_72')
 *     golden.float('out')   // { shape: [3, 33, 72], data: Float32Array }
 */
import { readFileSync } from 'node:fs'

/** A tensor of a golden file: its shape and its values in row-major order. */
export interface GoldenTensor<Data> {
  readonly shape: number[]
  readonly data: Data
}

/** One golden file. Asking for a tensor that is not there, or is of another type, throws. */
export interface Golden {
  readonly names: string[]
  /** How the file was made, and how far PyTorch's own float32 is from each value. */
  readonly notes: Record<string, string>
  has(name: string): boolean
  /** A float32 tensor; what the file stores as bfloat16 is widened, exactly. */
  float(name: string): GoldenTensor<Float32Array<ArrayBuffer>>
  /** An int32 tensor: token ids. */
  int(name: string): GoldenTensor<Int32Array<ArrayBuffer>>
  /** A short list of float64 numbers: losses, learning rates. */
  numbers(name: string): number[]
}

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

interface Metadata {
  __metadata__: Record<string, string>
}

/** Reads `name`.safetensors of this folder. */
export function readGolden(name: string): Golden {
  const file = readFileSync(new URL(`${name}.safetensors`, import.meta.url))
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<string, Entry> & Metadata
  const { __metadata__: notes, ...entries } = header
  const tensors = new Map<string, Entry>(Object.entries(entries))

  const find = (tensor: string, dtypes: string[]) => {
    const entry = tensors.get(tensor)
    if (!entry) throw new Error(`golden file ${name} has no '${tensor}', only ${[...tensors.keys()].join(', ')}`)
    if (!dtypes.includes(entry.dtype)) throw new Error(`'${tensor}' of golden file ${name} is ${entry.dtype}`)
    const [start, end] = entry.data_offsets
    // Copied: the typed array needs its own alignment, and a test may write into it.
    const bytes = Uint8Array.from(file.subarray(8 + headerBytes + start, 8 + headerBytes + end)).buffer
    return { bytes, shape: entry.shape, dtype: entry.dtype }
  }
  return {
    names: [...tensors.keys()],
    notes,
    has: tensor => tensors.has(tensor),
    float(tensor) {
      const { bytes, shape, dtype } = find(tensor, ['F32', 'BF16'])
      // A bfloat16 is the upper half of a float32.
      const widened = dtype === 'F32' ? bytes : Uint32Array.from(new Uint16Array(bytes), half => half << 16).buffer
      return { shape, data: new Float32Array(widened) }
    },
    int(tensor) {
      const { bytes, shape } = find(tensor, ['I32'])
      return { shape, data: new Int32Array(bytes) }
    },
    numbers: tensor => [...new Float64Array(find(tensor, ['F64']).bytes)],
  }
}

/** The norm of the difference over the norm of what was expected. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`)
  let difference = 0
  let size = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (Number(actual[i]) - Number(expected[i])) ** 2
    size += Number(expected[i]) ** 2
  }
  return Math.sqrt(difference / Math.max(size, Number.MIN_VALUE))
}

/** The largest |difference| / max(1, |expected|), where equal infinities differ by nothing. */
export function pointwiseError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`)
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [Number(actual[i]), Number(expected[i])]
    if (a === e) continue
    const error = Math.abs(a - e) / Math.max(1, Math.abs(e))
    if (!(error <= largest)) largest = Number.isNaN(error) ? Infinity : error
  }
  return largest
}
