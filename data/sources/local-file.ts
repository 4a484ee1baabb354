import type { Stats } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { nearestName } from '../../common/nearest-name.ts'
import { openRegular, readable, statRegular } from '../../common/regular-file.ts'

export type LocalFile = {
  path: string
  size: number
  /** Differs once the file was written again or replaced: see versionOf. */
  version: string
}

const pieceSize = 2 ** 24

/** What --data takes beside files. */
export const wikitextName = 'wikitext-103'

/** A file that the user names, with something in it; a UserError that says why not. */
export async function findFile(path: string): Promise<LocalFile> {
  const stats = await statRegular(path, () => adviceFor(path))
  if (stats.size === 0) throw new UserError(`${path} is empty: there is nothing to train on.`)
  return { path, size: stats.size, version: versionOf(stats) }
}

/**
 * What differs once a file was written again or replaced: its size, its number on the disk, and when it was changed, by
 * the time that programs can set (mtime) and by the one that only the system sets (ctime). Both are as fine as the disk
 * has them, to a thousandth of a millisecond.
 */
function versionOf({ size, ino, mtimeMs, ctimeMs }: Stats): string {
  return [size, ino, mtimeMs, ctimeMs].join(' ')
}

/** What to say when a file that is being read is written to. */
export function changed(path: string): UserError {
  return new UserError(`${path} was changed while it was read: start again once it is complete.`)
}

/** Whether a path that the user names is a folder; a UserError if there is no such path. */
export async function isFolder(path: string): Promise<boolean> {
  return (
    await readable(
      path,
      () => stat(path),
      () => adviceFor(path),
    )
  ).isDirectory()
}

/**
 * The bytes of a file from `start` to `end`, in pieces. Whether they are those of one and the same file is for the caller
 * to find out once it has all that it reads (refuseChanged in content.ts).
 */
export async function* readPieces(path: string, start: number, end: number): AsyncGenerator<Uint8Array> {
  const file = await openRegular(path)
  try {
    for (let at = start; at < end;) {
      const piece = new Uint8Array(Math.min(pieceSize, end - at))
      const { bytesRead } = await readable(path, async () => await file.read(piece, 0, piece.length, at))
      if (bytesRead === 0) throw changed(path) // it became shorter
      yield piece.subarray(0, bytesRead)
      at += bytesRead
    }
  } finally {
    await file.close()
  }
}

/** Which file may have been meant by the name of one that is not there. */
async function adviceFor(path: string): Promise<string> {
  const nearest = await nearestFile(path)
  return nearest ? `: did you mean ${nearest}?` : '.'
}

async function nearestFile(path: string): Promise<string | undefined> {
  const folder = dirname(path)
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const names = entries.map(entry => entry.name)
  const nearest = nearestName(basename(path), path === basename(path) ? [...names, wikitextName] : names)
  return nearest && join(folder, nearest)
}
