import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname, relative } from 'node:path'
import { reasonOf, UserError } from './errors.ts'
import { besideName } from './temporary-files.ts'

/**
 * Writes beside and renames: whoever reads `path`, now or after a crash, finds all of it or nothing. Errors of
 * `write` itself come out as they are; those of the disk, as a UserError.
 */
export async function writeWhole<T>(path: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  const beside = besideName(path)
  let file: FileHandle | undefined
  try {
    await mkdir(dirname(path), { recursive: true })
    file = await open(beside, 'w')
    const result = await write(file)
    await file.close()
    await rename(beside, path)
    return result
  } catch (error) {
    await file?.close().catch(() => {})
    await rm(beside, { force: true }).catch(() => {})
    const ofTheDisk = error instanceof Error && 'syscall' in error && !(error instanceof UserError)
    throw ofTheDisk ? new UserError(`${shortened(path)} could not be written (${reasonOf(error)}).`) : error
  }
}

/** A path as one would type it from here. */
export function shortened(path: string): string {
  const fromHere = relative('', path)
  return fromHere.startsWith('..') ? path : fromHere
}
