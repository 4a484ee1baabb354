import { basename, resolve } from 'node:path'
import { parquetMetadataAsync, parquetScan, parquetSchema, type AsyncBuffer } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { reasonOf, UserError } from '../run/errors.ts'
import { findFile } from './local-file.ts'
import { openRegular } from './regular-file.ts'
import type { Source, Text } from './text.ts'

/** What a row is in the text: all rows' bytes one after another are the text. */
export type RowBytes = (row: Uint8Array) => Uint8Array

const lineFeed = 0x0a
const heldOut = 0.05

/** A row is a document: whatever does not end its last line gets a line feed. */
const documentBytes: RowBytes = row =>
  row.at(-1) === lineFeed ? row : Buffer.concat([row, Uint8Array.of(lineFeed)])

export type ParquetOptions = {
  rowBytes?: RowBytes
  /** The first row, and the one after the last. */
  start?: number
  end?: number
}

/** The text column of a Parquet file, or some rows of it, read one group of rows at a time. */
export async function openParquet(
  path: string,
  options: ParquetOptions = {},
): Promise<Text & { rows: number }> {
  return await parsing(path, async () => {
    const file = await fileBuffer(path)
    const metadata = await parquetMetadataAsync(file)
    const column = textColumn(
      path,
      parquetSchema(metadata).children.map(({ element }) => element),
    )
    const size = metadata.row_groups.reduce((sum, group) => {
      const chunk = group.columns.find(({ meta_data }) => meta_data?.path_in_schema[0] === column)
      return sum + Number(chunk?.meta_data?.total_uncompressed_size ?? 0)
    }, 0)
    const all = Number(metadata.num_rows)
    if (all === 0) throw new UserError(`${path} has no rows: there is nothing to train on.`)
    const rows = (options.end ?? all) - (options.start ?? 0)
    return { size: (size * rows) / all, rows, pieces: () => readRows(path, column, options) }
  })
}

/** A Parquet file with a column of text: its last 5% of rows are held out for validation. */
export async function openParquetFile(path: string): Promise<Source> {
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
  path: string,
  column: string,
  { rowBytes = documentBytes, start = 0, end = Infinity }: ParquetOptions,
): AsyncGenerator<Uint8Array> {
  // As bytes they need not become strings on the way.
  const parsers = { stringFromBytes: (bytes: Uint8Array) => bytes }
  const scan = await parsing(path, async () =>
    parquetScan({
      file: await fileBuffer(path),
      columns: [column],
      compressors,
      parsers,
      useOffsetIndex: false,
    }),
  )
  for (const range of scan.ranges) {
    const [rowStart, rowEnd] = [Math.max(range.rowStart, start), Math.min(range.rowEnd, end)]
    if (rowStart >= rowEnd) continue
    const rows = await parsing(path, async () => await scan.readColumn({ column, rowStart, rowEnd }))
    yield Buffer.concat(
      Array.from(rows, (row: unknown) => rowBytes(row instanceof Uint8Array ? row : new Uint8Array())),
    )
  }
}

/** The column called text, else the only one of strings. */
function textColumn(path: string, columns: { name: string; type?: string }[]): string {
  const strings = columns.filter(({ type }) => type === 'BYTE_ARRAY').map(({ name }) => name)
  if (strings.includes('text')) return 'text'
  if (strings.length === 1) return strings[0]!
  const names = columns.map(({ name }) => name).join(', ')
  throw new UserError(`${path} has no column "text", nor only one of strings: its columns are ${names}.`)
}

/** Errors of the parser become one sentence that names the file. */
async function parsing<T>(path: string, parse: () => Promise<T>): Promise<T> {
  try {
    return await parse()
  } catch (error) {
    if (error instanceof UserError) throw error
    const reason = reasonOf(error).split('\n')[0]!
    throw new UserError(`${path} is not a Parquet file, or is damaged (${reason}).`)
  }
}

/** What hyparquet reads a file through. */
async function fileBuffer(path: string): Promise<AsyncBuffer> {
  const file = await openRegular(path)
  const { size } = await file.stat().finally(() => file.close())
  return {
    byteLength: size,
    async slice(start, end = size) {
      const handle = await openRegular(path)
      try {
        const from = start < 0 ? size + start : start
        const bytes = new Uint8Array(Math.max(0, end - from))
        const { bytesRead } = await handle.read(bytes, 0, bytes.length, from)
        return bytes.buffer.slice(0, bytesRead)
      } finally {
        await handle.close()
      }
    },
  }
}
