/** Parquet files with a column of text, whose last 5% of rows are held out for validation. */
import type { FileHandle } from 'node:fs/promises'
import { basename, extname, resolve } from 'node:path'
import {
  parquetMetadataAsync,
  parquetSchema,
  type AsyncBuffer,
  type FileMetaData,
  type SchemaTree,
} from 'hyparquet'
import { UserError } from '../../../common/errors.ts'
import { refusalOf } from '../damage.ts'
import { findFile, type LocalFile } from '../local-file.ts'
import { readPages, type Column, type ReadBytes } from './pages.ts'
import { openRegular } from '../../../common/regular-file.ts'
import { bytes } from '../../tokens/tokenizer.ts'
import type { Format } from '../source.ts'
import type { Text } from '../text.ts'

/** The bytes that a row adds to the text. */
export type RowBytes = (row: Uint8Array) => Uint8Array

const lineFeed = 0x0a
const heldOut = 0.05
const pieceSize = 2 ** 20

/** A row is a document: it gets a line feed at its end if it has none. */
const documentBytes: RowBytes = row =>
  row.at(-1) === lineFeed ? row : Buffer.concat([row, Uint8Array.of(lineFeed)])

export const parquetFile: Format = {
  tokenizer: bytes,
  matches: (path, isFolder) => !isFolder && extname(path).toLowerCase() === '.parquet',
  open: openParquetFile,
}

export type ParquetOptions = {
  rowBytes?: RowBytes
  /** The first row, and the row after the last one. */
  start?: number
  end?: number
}

/** The text column of a Parquet file, or some of its rows, read page by page. Null values are skipped. */
export async function openParquet(
  path: string,
  options: ParquetOptions = {},
): Promise<Text & { rows: number }> {
  const file = await findFile(path)
  const table = await parsing(file, readBytes => readTable(file, readBytes))
  const all = table.reduce((sum, { rows }) => sum + rows, 0)
  if (all === 0) throw new UserError(`${path} has no rows: there is nothing to train on.`)
  const size = table.reduce(
    (sum, { chunk }) => sum + Number(chunk.meta_data?.total_uncompressed_size ?? 0),
    0,
  )
  const rows = (options.end ?? all) - (options.start ?? 0)
  return { size: (size * rows) / all, rows, pieces: () => readRows(file, table, options) }
}

async function openParquetFile(path: string) {
  const file = await findFile(path)
  const whole = await openParquet(path)
  const heldOutRows = Math.floor(whole.rows * heldOut)
  if (heldOutRows === 0) {
    throw new UserError(
      `${path} has ${whole.rows} rows, of which 5% are held out for validation: it takes 20.`,
    )
  }
  const [train, validation] = await Promise.all([
    openParquet(path, { end: whole.rows - heldOutRows }),
    openParquet(path, { start: whole.rows - heldOutRows }),
  ])
  return { name: basename(path), place: resolve(path), version: [file], train, validation }
}

async function* readRows(
  file: LocalFile,
  table: readonly Column[],
  { rowBytes = documentBytes, start = 0, end = Infinity }: ParquetOptions,
): AsyncGenerator<Uint8Array> {
  const handle = await openRegular(file.path)
  try {
    let row = 0
    let piece: Uint8Array[] = []
    let length = 0
    for (const column of table) {
      if (row + column.rows <= start || row >= end) {
        row += column.rows
        continue
      }
      // Rows outside the range are read too, since the file's totals, which are checked, are those of the whole group.
      for await (const page of readPages(column, readFrom(handle))) {
        for (const string of page) {
          if (string && row >= start && row < end) {
            const bytes = rowBytes(string)
            piece.push(bytes)
            length += bytes.length
          }
          row++
          if (length < pieceSize) continue
          yield Buffer.concat(piece)
          piece = []
          length = 0
        }
      }
    }
    if (length > 0) yield Buffer.concat(piece)
  } catch (error) {
    throw await refusalOf(file, 'Parquet file', error)
  } finally {
    await handle.close()
  }
}

/** The text column of each row group. */
async function readTable({ path, size }: LocalFile, readBytes: ReadBytes): Promise<Column[]> {
  const mark = size < 12 ? '' : Buffer.from(await readBytes(size - 4, 4)).toString('latin1')
  if (mark === 'PARE') throw new UserError(`${path} is encrypted: decrypt it first.`)
  const file: AsyncBuffer = {
    byteLength: size,
    async slice(start, end = size) {
      const bytes = await readBytes(start, end - start)
      return new Uint8Array(bytes).buffer
    },
  }
  const metadata: FileMetaData = await parquetMetadataAsync(file)
  const schema = parquetSchema(metadata)
  const column = textColumn(path, schema)
  const place = leavesOf(schema).indexOf(column)
  const end = size - 8 - metadata.metadata_length
  const table = metadata.row_groups.map(({ columns, num_rows }): Column => {
    const chunk = columns[place]
    if (!chunk) throw new Error('its columns are not those of its schema')
    return { path, element: column.element, chunk, rows: Number(num_rows), end }
  })
  const rows = table.reduce((sum, group) => sum + group.rows, 0)
  if (rows !== Number(metadata.num_rows)) throw new Error('its groups have other rows than the file')
  return table
}

/** The column called text, or the only column of strings. */
function textColumn(path: string, schema: SchemaTree): SchemaTree {
  const strings = leavesOf(schema).filter(isText)
  const ofRows = strings.filter(isOfRows)
  const called = ofRows.filter(({ element }) => element.name === 'text')
  const [column] = called.length === 1 ? called : strings.length === 1 ? ofRows : []
  if (column) return column
  const names = schema.children.map(child => {
    const inside = leavesOf(child).some(leaf => isText(leaf) && !isOfRows(leaf))
    return inside ? `${child.element.name} (strings in lists or structs)` : child.element.name
  })
  throw new UserError(
    `${path} has no column "text" of strings, nor only one column of strings: its columns are ${names.join(', ')}. ` +
      'Write the text to train on into a column called text, with one string per row.',
  )
}

/** The columns that store values, in their order in the file. */
function leavesOf(schema: SchemaTree): SchemaTree[] {
  return schema.children.length > 0 ? schema.children.flatMap(leavesOf) : [schema]
}

const textTypes = new Set<string | undefined>([undefined, 'STRING', 'UTF8', 'JSON', 'ENUM'])

/** Whether a column has strings, or bytes without a type, which is how older programs write strings. */
function isText({ element }: SchemaTree): boolean {
  const { type, logical_type, converted_type } = element
  return type === 'BYTE_ARRAY' && textTypes.has(logical_type?.type) && textTypes.has(converted_type)
}

/** Whether a column has one value per row: it is not inside a list or a struct. */
function isOfRows({ path, element }: SchemaTree): boolean {
  return path.length === 1 && element.repetition_type !== 'REPEATED'
}

/** Opens a file for a parser, and turns its errors into one sentence that names the file. */
async function parsing<T>(file: LocalFile, parse: (readBytes: ReadBytes) => Promise<T>): Promise<T> {
  let handle: FileHandle | undefined
  try {
    handle = await openRegular(file.path)
    return await parse(readFrom(handle))
  } catch (error) {
    throw await refusalOf(file, 'Parquet file', error)
  } finally {
    await handle?.close()
  }
}

function readFrom(handle: FileHandle): ReadBytes {
  return async (start, length) => {
    const bytes = new Uint8Array(length)
    const { bytesRead } = await handle.read(bytes, 0, length, start)
    if (bytesRead < length) throw new Error('it ends too early')
    return bytes
  }
}
