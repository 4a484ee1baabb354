/** A .zip archive with a text in two files, one for training and one for validation. */
import { basename, extname, resolve } from 'node:path'
import { crc32 } from 'node:zlib'
import { openPromise, type Entry } from 'yauzl'
import { reasonOf, UserError } from '../../common/errors.ts'
import { refusalOf } from './damage.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { bytes } from '../tokens/tokenizer.ts'
import type { Format } from './source.ts'
import { openSplits } from './split-files.ts'
import type { Text } from './text.ts'

export const zipFile: Format = {
  tokenizer: bytes,
  matches: (path, isFolder) => !isFolder && extname(path).toLowerCase() === '.zip',
  async open(path) {
    const file = await findFile(path)
    return { name: basename(path), place: resolve(path), version: [file], ...(await openZip(path)) }
  },
}

/** Both splits of a text in a .zip archive, in whichever of its folders they are. */
export async function openZip(path: string): Promise<{ train: Text; validation: Text }> {
  const file = await findFile(path)
  const entries = await listEntries(file)
  const names = new Set([...entries.keys()].map(withoutFolders))
  const [train, validation] = await openSplits(path, [...names], async name => {
    const found = [...entries.values()].filter(entry => withoutFolders(entry.fileName) === name)
    const [entry, other] = found
    if (entry && !other) return openEntry(file, entry)
    const places = found.map(({ fileName }) => fileName).join(' and ')
    throw new UserError(
      `${path} has ${places}: give an archive with one of them, or the folder that is meant.`,
    )
  })
  return { train, validation }
}

/** The files in an archive. Of several entries with the same path, the last one counts, since it replaced the others. */
async function listEntries(file: LocalFile): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>()
  try {
    for await (const entry of (await openPromise(file.path)).eachEntry()) {
      if (!entry.fileName.endsWith('/')) entries.set(entry.fileName, entry)
    }
  } catch (error) {
    if (reasonOf(error) === 'strong encryption is not supported') throw encrypted(file)
    throw await refusalOf(file, '.zip archive', error)
  }
  return entries
}

function openEntry(file: LocalFile, entry: Entry): Text {
  const { fileName, uncompressedSize, compressionMethod } = entry
  if (entry.isEncrypted()) throw encrypted(file)
  if (!entry.canDecodeFileData()) {
    throw new UserError(
      `${fileName} in ${file.path} is compressed by method ${compressionMethod}, which cannot be read here: unpack it, ` +
        'and give the folder.',
    )
  }
  return { size: uncompressedSize, pieces: () => readEntry(file, entry) }
}

/** The content of an entry. Throws if its size or checksum is not the one in the archive's directory. */
async function* readEntry(file: LocalFile, entry: Entry): AsyncGenerator<Uint8Array> {
  try {
    const archive = await openPromise(file.path, { autoClose: false })
    try {
      let checksum = 0
      for await (const piece of await archive.openReadStreamPromise(entry)) {
        if (!(piece instanceof Uint8Array)) throw new TypeError('a stream of strings')
        checksum = crc32(piece, checksum)
        yield piece
      }
      if (checksum !== entry.crc32) throw new Error(`the checksum of ${entry.fileName} differs`)
    } finally {
      archive.close()
    }
  } catch (error) {
    throw await refusalOf(file, '.zip archive', error)
  }
}

function encrypted({ path }: LocalFile): UserError {
  return new UserError(`${path} is encrypted: unpack it, and give the folder.`)
}

function withoutFolders(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}
