import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { codeOf, reasonOf, UserError } from '../run/errors.ts'
import { nearestName } from '../run/names.ts'

export type LocalFile = {
  path: string
  size: number
  /** Differs once the file was written again. */
  version: string
}

const pieceSize = 2 ** 24

/** What --data takes beside files. */
export const wikitextName = 'wikitext-103'

/** A file that the user names, with something in it; a UserError that says why not. */
export async function findFile(path: string): Promise<LocalFile> {
  const found = await readable(path, async () => await stat(path))
  if (!found.isFile()) throw new UserError(`${path} is not a regular file: --data takes a text file.`)
  if (found.size === 0) throw new UserError(`${path} is empty: there is nothing to train on.`)
  return { path, size: found.size, version: versionOf(found) }
}

/** What differs once a file was written again. */
export function versionOf({ size, mtime }: { size: number; mtime: Date }): string {
  return `${size} bytes of ${mtime.toISOString()}`
}

/** What to say when a file that is being read is written to. */
export function changed(path: string): UserError {
  return new UserError(`${path} changed while it was being read: start again, once nothing writes to it.`)
}

/** Throws a UserError unless a file is still the one that was found. */
export async function checkUnchanged({ path, version }: LocalFile): Promise<void> {
  const found = await readable(path, async () => await stat(path))
  if (versionOf(found) !== version) throw changed(path)
}

/** Whether a path that the user names is a folder; a UserError if there is no such path. */
export async function isFolder(path: string): Promise<boolean> {
  const found = await readable(path, async () => await stat(path))
  return found.isDirectory()
}

/** The bytes of a file from `start` to `end`, in pieces. A file that changes meanwhile is a UserError. */
export async function* readPieces(
  { path, version }: LocalFile,
  start: number,
  end: number,
): AsyncGenerator<Uint8Array> {
  const file = await readable(path, async () => await open(path))
  try {
    for (let at = start; at < end;) {
      const piece = new Uint8Array(Math.min(pieceSize, end - at))
      const { bytesRead } = await readable(path, async () => await file.read(piece, 0, piece.length, at))
      if (bytesRead === 0) throw changed(path) // it became shorter
      yield piece.subarray(0, bytesRead)
      at += bytesRead
    }
    if (versionOf(await file.stat()) !== version) throw changed(path)
  } finally {
    await file.close()
  }
}

/** Says in a sentence why a file cannot be read. */
export async function readable<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    if (codeOf(error) === 'ENOENT') {
      const nearest = await nearestFile(path)
      throw new UserError(`There is no file ${path}${nearest ? `: did you mean ${nearest}?` : '.'}`)
    }
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
}

async function nearestFile(path: string): Promise<string | undefined> {
  const folder = dirname(path)
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const names = entries.map(entry => entry.name)
  const nearest = nearestName(basename(path), path === basename(path) ? [...names, wikitextName] : names)
  return nearest && join(folder, nearest)
}
