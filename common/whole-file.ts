/** Writes files so that a reader, or a crash, never sees a file that is half written. */
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname, relative } from 'node:path'
import { temporaryName } from './temporary-files.ts'

/**
 * Writes a temporary file and renames it to `path`: a reader finds either the whole new content or the old one, even
 * after a crash or a power cut. If writing fails, for example on a full disk, it throws the error and changes nothing.
 */
export async function writeWhole<T = void>(
  path: string,
  content: string | Uint8Array | ((file: FileHandle) => Promise<T>),
): Promise<void> {
  const beside = temporaryName(path)
  try {
    const file = await open(beside, 'wx')
    try {
      if (typeof content === 'function') await content(file)
      else await file.writeFile(content)
      await file.sync() // without it, a power cut could leave an empty file under the new name
    } finally {
      await file.close()
    }
    await rename(beside, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {})
    throw error
  }
}

/** Makes a rename durable. Where folders cannot be opened, as on Windows, the system does that by itself. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder).catch(() => undefined)
  await handle?.sync().catch(() => {})
  await handle?.close()
}

/** A path as one would type it in the current folder. */
export function shortened(path: string): string {
  const fromHere = relative('', path)
  return fromHere.startsWith('..') ? path : fromHere
}
