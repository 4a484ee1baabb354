/**
 * Decodes the byte strings and small numbers in the pages of a Parquet file:
 * https://parquet.apache.org/docs/file-format/data-pages/encodings/
 * Every function reads exactly `count` values, and throws if there are fewer or if bytes are left over.
 */
import type { ByteReader } from './byte-reader.ts'

/** PLAIN: each string follows its length. */
export function* plainStrings(reader: ByteReader, count: number): Generator<Uint8Array> {
  for (let i = 0; i < count; i++) yield reader.take(reader.uint32())
  expectEnd(reader)
}

/** DELTA_LENGTH_BYTE_ARRAY: all lengths come first, then all strings. */
export function* lengthStrings(reader: ByteReader, count: number): Generator<Uint8Array> {
  const lengths = deltaNumbers(reader, count)
  for (const length of lengths) yield reader.take(length)
  expectEnd(reader)
}

/** DELTA_BYTE_ARRAY: each string is the length of the prefix that it shares with the previous one, and a suffix. */
export function* prefixStrings(reader: ByteReader, count: number): Generator<Uint8Array> {
  const prefixes = deltaNumbers(reader, count)
  let before = new Uint8Array()
  let i = 0
  for (const suffix of lengthStrings(reader, count)) {
    const prefix = prefixes[i++]!
    if (prefix < 0 || prefix > before.length) throw new Error('a string has more in common than there is')
    const whole = new Uint8Array(prefix + suffix.length)
    whole.set(before.subarray(0, prefix))
    whole.set(suffix, prefix)
    yield (before = whole)
  }
}

/** RLE_DICTIONARY: each string is an index into the dictionary. */
export function* dictionaryStrings(
  reader: ByteReader,
  count: number,
  dictionary: readonly Uint8Array[],
): Generator<Uint8Array> {
  const bitWidth = count > 0 ? reader.byte() : 0
  for (const place of runs(reader, bitWidth, count)) {
    const value = dictionary[place]
    if (!value) throw new Error('a value is not in its dictionary')
    yield value
  }
}

/** Numbers of `bitWidth` bits, in runs of equal numbers and in packed groups of eight. A width of 0 stores nothing. */
export function runs(reader: ByteReader, bitWidth: number, count: number): Uint32Array {
  if (bitWidth > 32) throw new Error(`a width of ${bitWidth} bits`)
  const values = new Uint32Array(count)
  if (bitWidth === 0) return values
  for (let seen = 0; seen < count;) {
    const header = reader.varint()
    const length = Math.floor(header / 2)
    if (header % 2 === 1) {
      const wanted = Math.min(8 * length, count - seen)
      // The last group may leave out its unused bytes.
      const bytes = reader.take(Math.min(length * bitWidth, reader.left))
      if (8 * bytes.length < wanted * bitWidth) throw new Error('a page ends too early')
      for (let i = 0; i < wanted; i++) values[seen++] = bitsAt(bytes, i * bitWidth, bitWidth)
    } else {
      if (length > count - seen) throw new Error('a page has more values than it says')
      const bytes = reader.take(Math.ceil(bitWidth / 8))
      const value = bitsAt(bytes, 0, 8 * bytes.length)
      if (value >= 2 ** bitWidth) throw new Error(`a number of more than ${bitWidth} bits`)
      values.fill(value, seen, (seen += length))
    }
  }
  return values
}

/** DELTA_BINARY_PACKED: 32-bit integers, stored as blocks of differences. */
function deltaNumbers(reader: ByteReader, count: number): Int32Array {
  const blockSize = reader.varint()
  const blocks = reader.varint()
  const total = reader.varint()
  const size = blockSize / blocks
  if (total !== count || !Number.isInteger(size) || size === 0 || size % 8 !== 0) {
    throw new Error('a page has other values than it says')
  }
  const values = new Int32Array(count)
  let value = zigzag(reader.varint())
  if (count > 0) values[0] = value
  for (let seen = 1; seen < count;) {
    const least = zigzag(reader.varint())
    const widths = reader.take(blocks)
    for (let block = 0; block < blocks && seen < count; block++) {
      const width = widths[block]!
      if (width > 32) throw new Error(`a width of ${width} bits`)
      const bytes = reader.take((size / 8) * width)
      for (let i = 0; i < size && seen < count; i++) {
        value = (value + least + bitsAt(bytes, i * width, width)) | 0
        values[seen++] = value
      }
    }
  }
  return values
}

/** Up to 32 bits starting at a bit position, lowest first. */
function bitsAt(bytes: Uint8Array, place: number, width: number): number {
  let value = 0
  for (let bit = 0; bit < width;) {
    const at = place + bit
    const within = at % 8
    const taken = Math.min(8 - within, width - bit)
    value += ((bytes[Math.floor(at / 8)]! >> within) & ((1 << taken) - 1)) * 2 ** bit
    bit += taken
  }
  return value
}

function zigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2
}

/** Throws unless only zeros are left over: fastparquet writes eight of them. */
function expectEnd(reader: ByteReader): void {
  if (reader.take(reader.left).some(byte => byte !== 0)) throw new Error('a page has more than its values')
}
