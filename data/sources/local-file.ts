/** The user's files: their size, and whether they change while they are read. */
import type { Stats } from 'node:fs'
import { UserError } from '../../common/errors.ts'
import { openRegular, readable, statRegular } from '../../common/regular-file.ts'

export type LocalFile = {
  path: string
  size: number
  /** Changes when the file is written or replaced: see versionOf. */
  version: string
}

const pieceSize = 2 ** 24

/** A file that the user names. Throws a UserError if it is not a regular file, or is empty. */
export async function findFile(path: string): Promise<LocalFile> {
  const stats = await statRegular(path)
  if (stats.size === 0) throw new UserError(`${path} is empty: there is nothing to train on.`)
  return { path, size: stats.size, version: versionOf(stats) }
}

/**
 * A text that changes when a file is written or replaced: its size, its inode number, and the times of its last change,
 * both the one that programs can set (mtime) and the one that only the system sets (ctime), to a thousandth of a
 * millisecond where the disk is that precise.
 */
function versionOf({ size, ino, mtimeMs, ctimeMs }: Stats): string {
  return [size, ino, mtimeMs, ctimeMs].join(' ')
}

/** The error for a file that was written to while it was read. */
export function changed(path: string): UserError {
  return new UserError(`${path} was changed while it was read: start again once it is complete.`)
}

/**
 * The bytes of a file from `start` to `end`, in pieces. The caller checks afterwards, with refuseChanged of content.ts,
 * that the file was not replaced in between.
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
