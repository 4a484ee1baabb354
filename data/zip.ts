import { basename, resolve } from 'node:path'
import { crc32 } from 'node:zlib'
import { openPromise } from 'yauzl'
import { reasonOf, UserError } from '../run/errors.ts'
import { openHalves } from './halves.ts'
import { findFile } from './local-file.ts'
import type { Source, Text } from './text.ts'

/** The files in a .zip archive, by their names without folders. */
export async function openZip(path: string): Promise<Map<string, Text>> {
  return await unzipping(path, async () => {
    const files = new Map<string, Text>()
    for await (const entry of (await openPromise(path)).eachEntry()) {
      const { fileName, uncompressedSize } = entry
      const name = fileName.slice(fileName.lastIndexOf('/') + 1)
      if (name) files.set(name, { size: uncompressedSize, pieces: () => readEntry(path, fileName) })
    }
    return files
  })
}

/** A .zip archive with a text in two files. */
export async function openZipFile(path: string): Promise<Source> {
  const file = await findFile(path)
  const files = await openZip(path)
  const [train, validation] = await openHalves(path, [...files.keys()], async name => files.get(name)!)
  return { name: basename(path), place: resolve(path), version: [file], train, validation }
}

async function* readEntry(path: string, fileName: string): AsyncGenerator<Uint8Array> {
  const archive = await unzipping(path, () => openPromise(path, { autoClose: false }))
  try {
    for await (const entry of archive.eachEntry()) {
      if (entry.fileName !== fileName) continue
      let checksum = 0
      const stream = await archive.openReadStreamPromise(entry)
      for await (const piece of stream) {
        if (!(piece instanceof Uint8Array)) throw new TypeError('a stream of strings')
        checksum = crc32(piece, checksum)
        yield piece
      }
      if (checksum !== entry.crc32) throw new Error(`the checksum of ${fileName} differs`)
      return
    }
  } catch (error) {
    throw damaged(path, error)
  } finally {
    archive.close()
  }
}

async function unzipping<T>(path: string, unzip: () => Promise<T>): Promise<T> {
  try {
    return await unzip()
  } catch (error) {
    throw damaged(path, error)
  }
}

function damaged(path: string, error: unknown): UserError {
  return new UserError(`${path} is not a .zip archive, or is damaged (${reasonOf(error).split('\n')[0]!}).`)
}
