/**
 * Reads a column of a Parquet file page by page, and checks everything that the file states about each page:
 * https://parquet.apache.org/docs/file-format/data-pages/
 */
import { isUtf8 } from 'node:buffer'
import zlib from 'node:zlib'
import type { ColumnChunk, PageHeader, SchemaElement } from 'hyparquet'
import { parquetHeader } from 'hyparquet/src/column.js'
import { compressors } from 'hyparquet-compressors'
import { UserError } from '../../../common/errors.ts'
import { ByteReader } from './byte-reader.ts'
import { dictionaryStrings, lengthStrings, plainStrings, prefixStrings, runs } from './encodings.ts'

/** Reads exactly these bytes of a file, or throws. */
export type ReadBytes = (start: number, length: number) => Promise<Uint8Array>

/** A column of one row group. */
export type Column = {
  /** The path of its file. */
  path: string
  element: SchemaElement
  chunk: ColumnChunk
  rows: number
  /** Where the pages of the file end. */
  end: number
}

type Meta = NonNullable<ColumnChunk['meta_data']>

/**
 * The strings of a column, one page at a time, with undefined for a null. Checks each page's checksum if it has one, the
 * file's counts of rows, values, nulls and bytes, and that each string is UTF-8. Throws a UserError for a feature that is
 * not supported, and an Error for damage.
 */
export async function* readPages(
  column: Column,
  readBytes: ReadBytes,
): AsyncGenerator<Iterable<Uint8Array | undefined>> {
  const { path, element, chunk, rows, end } = column
  const meta = metaOf(column)
  const isOptional = element.repetition_type === 'OPTIONAL'
  const seen = { rows: 0, nulls: 0, bytes: 0 }
  let dictionary: Uint8Array[] = []
  for (let at = startOf(meta); seen.rows < rows;) {
    const { header, length } = await readHeader(readBytes, at, end)
    const size = sizeOf(header.compressed_page_size)
    at += length
    if (at + size > end) throw new Error('a page ends after the file')
    const stored = await readBytes(at, size)
    at += size
    if (header.crc !== undefined && header.crc >>> 0 !== zlib.crc32(stored)) {
      throw new Error('the checksum of a page differs')
    }
    if (header.type === 'INDEX_PAGE') continue
    if (header.type === 'DICTIONARY_PAGE') {
      const { num_values: count, encoding } = wanted(header.dictionary_page_header)
      if (encoding !== 'PLAIN' && encoding !== 'PLAIN_DICTIONARY') throw unsupported(path, encoding)
      const bytes = unpacked(path, meta, stored, sizeOf(header.uncompressed_page_size))
      dictionary = [...checkedText(plainStrings(new ByteReader(bytes), sizeOf(count)))]
      continue
    }
    const page = openPage(column, meta, header, stored)
    if (page.count > rows - seen.rows) throw new Error('a column has more values than rows')
    const present = isOptional ? runs(page.levels, 1, page.count) : new Uint32Array(page.count).fill(1)
    const strings = present.reduce((sum, level) => sum + level, 0)
    if (page.nulls !== undefined && page.nulls !== page.count - strings) {
      throw new Error('a page has other nulls than it says')
    }
    seen.rows += page.count
    seen.nulls += page.count - strings
    yield rowsOf(present, stringsOf(path, page, strings, dictionary), seen)
  }
  const nulls = meta.statistics?.null_count
  if (nulls !== undefined && Number(nulls) !== seen.nulls) throw new Error('other nulls than the file says')
  const bytes = meta.size_statistics?.unencoded_byte_array_data_bytes
  if (bytes !== undefined && Number(bytes) !== seen.bytes) throw new Error('other text than the file says')
  if (Number(meta.num_values) !== rows || chunk.file_path) throw new Error('other values than the file says')
}

/** A decompressed data page. */
type Page = {
  /** The number of its values, including nulls. */
  count: number
  /** The number of nulls, if the page states it. */
  nulls: number | undefined
  encoding: string
  /** The definition levels: a bit for each value, 0 for null. */
  levels: ByteReader
  values: ByteReader
}

function openPage({ path, element }: Column, meta: Meta, header: PageHeader, stored: Uint8Array): Page {
  const isOptional = element.repetition_type === 'OPTIONAL'
  const size = sizeOf(header.uncompressed_page_size)
  if (header.type === 'DATA_PAGE') {
    const { num_values: count, encoding, definition_level_encoding: levels } = wanted(header.data_page_header)
    if (isOptional && levels !== 'RLE') throw unsupported(path, levels)
    const values = new ByteReader(unpacked(path, meta, stored, size))
    const bytes = isOptional ? values.take(values.uint32()) : new Uint8Array()
    return { count: sizeOf(count), nulls: undefined, encoding, levels: new ByteReader(bytes), values }
  }
  if (header.type !== 'DATA_PAGE_V2') throw new Error('a page of an unknown kind')
  // Version 2 stores the levels first, and does not compress them.
  const v2 = wanted(header.data_page_header_v2)
  const levels = sizeOf(v2.definition_levels_byte_length)
  if (v2.repetition_levels_byte_length !== 0 || v2.num_rows !== v2.num_values) {
    throw new Error('a page has lists where the column has none')
  }
  const reader = new ByteReader(stored)
  const bytes = reader.take(levels)
  const rest = reader.take(reader.left)
  const codec = v2.is_compressed === false || rest.length === 0 ? 'UNCOMPRESSED' : meta.codec
  const values = new ByteReader(unpacked(path, { codec }, rest, sizeOf(size - levels)))
  const [count, nulls] = [sizeOf(v2.num_values), sizeOf(v2.num_nulls)]
  return { count, nulls, encoding: v2.encoding, levels: new ByteReader(bytes), values }
}

function stringsOf(
  path: string,
  { encoding, values }: Page,
  count: number,
  dictionary: readonly Uint8Array[],
): Generator<Uint8Array> {
  if (encoding === 'PLAIN') return checkedText(plainStrings(values, count))
  if (encoding === 'DELTA_LENGTH_BYTE_ARRAY') return checkedText(lengthStrings(values, count))
  if (encoding === 'DELTA_BYTE_ARRAY') return checkedText(prefixStrings(values, count))
  if (encoding === 'RLE_DICTIONARY' || encoding === 'PLAIN_DICTIONARY') {
    return dictionaryStrings(values, count, dictionary) // the dictionary's strings are checked already
  }
  throw unsupported(path, encoding)
}

/** The strings, with undefined for each null. */
function* rowsOf(
  present: Uint32Array,
  strings: Generator<Uint8Array>,
  seen: { bytes: number },
): Generator<Uint8Array | undefined> {
  for (const level of present) {
    if (level === 0) {
      yield undefined
      continue
    }
    const next = strings.next()
    if (next.done) throw new Error('a page has fewer values than it says')
    seen.bytes += next.value.length
    yield next.value
  }
  if (!strings.next().done) throw new Error('a page has more values than it says')
}

function* checkedText(strings: Iterable<Uint8Array>): Generator<Uint8Array> {
  for (const string of strings) {
    if (!isUtf8(string)) throw new Error('its text is not UTF-8')
    yield string
  }
}

function unpacked(path: string, { codec }: Pick<Meta, 'codec'>, bytes: Uint8Array, size: number): Uint8Array {
  const whole = decompress(path, codec, bytes, size)
  if (whole.length !== size) throw new Error('a page is not as long as it says')
  return whole
}

function decompress(path: string, codec: Meta['codec'], bytes: Uint8Array, size: number): Uint8Array {
  if (codec === 'UNCOMPRESSED') return bytes
  // Node's own decompressors are faster, and check the checksums of these formats.
  const options = { maxOutputLength: Math.max(1, size) }
  if (codec === 'GZIP') return zlib.gunzipSync(bytes, options)
  if (codec === 'BROTLI') return zlib.brotliDecompressSync(bytes, options)
  if (codec === 'ZSTD' && 'zstdDecompressSync' in zlib) return zlib.zstdDecompressSync(bytes, options)
  const decompressor = compressors[codec]
  if (!decompressor) throw unsupported(path, codec)
  return decompressor(bytes, size)
}

/** The header of the page at a position, and its length in bytes. */
async function readHeader(
  readBytes: ReadBytes,
  at: number,
  end: number,
): Promise<{ header: PageHeader; length: number }> {
  if (!(at >= 0 && at < end)) throw new Error('a column has fewer rows than the file says')
  // The header includes statistics, which may be as long as the page's strings.
  for (const most of [2 ** 12, 2 ** 24]) {
    const bytes = await readBytes(at, Math.min(most, end - at))
    const reader = { view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), offset: 0 }
    try {
      return { header: parquetHeader(reader), length: reader.offset }
    } catch (error) {
      if (bytes.length < most || most === 2 ** 24) throw error
    }
  }
  throw new Error('a page has no header')
}

/** The metadata of a column. Throws a UserError if the column cannot be read. */
function metaOf({ path, chunk, element }: Column): Meta {
  const meta = chunk.meta_data
  if (!meta || chunk.crypto_metadata) throw new UserError(`${path} is encrypted: decrypt it first.`)
  if (chunk.file_path) throw new UserError(`${path} has its columns in other files (${chunk.file_path}).`)
  if (meta.type !== 'BYTE_ARRAY' || meta.path_in_schema.join('.') !== element.name) {
    throw new Error('its columns are not those of its schema')
  }
  return meta
}

function startOf({ dictionary_page_offset: dictionary, data_page_offset: data }: Meta): number {
  return Number(dictionary !== undefined && dictionary > 0n && dictionary < data ? dictionary : data)
}

/** A required number of a header. */
function sizeOf(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw new Error('a page has no proper header')
}

function wanted<T>(part: T | undefined): T {
  if (part === undefined) throw new Error('a page has no proper header')
  return part
}

function unsupported(path: string, what: string): UserError {
  return new UserError(
    `${path} uses an encoding that is not supported (${what}): write it again, with zstd or snappy.`,
  )
}
