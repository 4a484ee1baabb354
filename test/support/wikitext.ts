import { createHash } from 'node:crypto'
import { crc32, deflateRawSync } from 'node:zlib'
import { parquetWriteBuffer } from 'hyparquet-writer'
import type { PublishedFile } from '../../data/sources/download.ts'
import type { Edition } from '../../data/sources/wikitext.ts'

/** Lines as WikiText has them, of an article each time: a title, text, and lines of one space between. */
export function articles(first: number, count: number): string[] {
  return Array.from({ length: count }, (_, i) => {
    const n = first + i
    const sentence = `The ${n}th article is about the number ${n} , which is ${n % 2 ? 'odd' : 'even'} – naïvely so . `
    return [' \n', ` = Article ${n} = \n`, ' \n', ` ${sentence.repeat(3)}\n`, ` ${sentence}\n`]
  }).flat()
}

/** Rows as Hugging Face has them: lines of one space are empty. */
export function parquetOf(lines: readonly string[], rowGroupSize = 100): Uint8Array {
  const data = lines.map(line => (line === ' \n' ? '' : line))
  return new Uint8Array(
    parquetWriteBuffer({ columnData: [{ name: 'text', data, type: 'STRING' }], rowGroupSize }),
  )
}

/** A .zip archive of files by their names, of which several may be the same. */
export function zipOf(
  files: Record<string, string | Uint8Array> | (readonly [name: string, content: string])[],
  { flags = 0, method = 8 } = {},
): Uint8Array {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const [name, content] of Array.isArray(files) ? files : Object.entries(files)) {
    const data = Buffer.from(content)
    const packed = deflateRawSync(data)
    const sizes = Buffer.alloc(26) // what the local header and the directory have in common
    sizes.writeUInt16LE(20, 0) // version
    sizes.writeUInt16LE(0x800 | flags, 2) // names are UTF-8
    sizes.writeUInt16LE(method, 4) // deflate
    sizes.writeUInt32LE(crc32(data), 10)
    sizes.writeUInt32LE(packed.length, 14)
    sizes.writeUInt32LE(data.length, 18)
    sizes.writeUInt16LE(Buffer.byteLength(name), 22)
    const place = Buffer.alloc(14)
    place.writeUInt32LE(offset, 10)
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), sizes, Buffer.from(name), packed])
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00'), sizes, place, Buffer.from(name)]))
    parts.push(local)
    offset += local.length
  }
  const entries = Buffer.concat(directory)
  const end = Buffer.alloc(18)
  end.writeUInt16LE(directory.length, 4)
  end.writeUInt16LE(directory.length, 6)
  end.writeUInt32LE(entries.length, 8)
  end.writeUInt32LE(offset, 12)
  return Buffer.concat([...parts, entries, Buffer.from('PK\x05\x06'), end])
}

/** A small WikiText: what its servers have, and the text that it must become. */
export function smallWikitext() {
  const [first, second, held] = [articles(0, 200), articles(200, 30), articles(1000, 40)]
  const text = { train: [...first, ...second].join(''), validation: held.join('') }
  const files = new Map<string, Uint8Array>([
    ['train-0.parquet', parquetOf(first)],
    ['train-1.parquet', parquetOf(second)],
    ['validation.parquet', parquetOf(held)],
    [
      'raw.zip',
      zipOf({ 'wikitext-raw/wiki.train.raw': text.train, 'wikitext-raw/wiki.valid.raw': text.validation }),
    ],
  ])
  const published = (name: string): PublishedFile => {
    const content = files.get(name)!
    return { name, bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }
  }
  const edition = (parquetUrl: string, zipUrl: string): Edition => ({
    name: 'WikiText-small',
    folder: 'wikitext-small',
    parquet: {
      url: parquetUrl,
      train: [published('train-0.parquet'), published('train-1.parquet')],
      validation: [published('validation.parquet')],
      rows: { train: first.length + second.length, validation: held.length },
    },
    zip: { url: zipUrl, file: published('raw.zip') },
  })
  return { text, files, edition }
}
