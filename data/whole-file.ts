import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { reasonOf, UserError } from '../run/errors.ts'

const isUuid = /\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/**
 * Writes beside and renames: whoever reads `path`, now or after a crash, finds all of it or nothing. Errors of
 * `write` itself come out as they are; those of the disk, as a UserError.
 */
export async function writeWhole<T>(path: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  const beside = `${path}.${randomUUID()}`
  let file: FileHandle | undefined
  try {
    await mkdir(dirname(path), { recursive: true })
    await removeLeftovers(path)
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

/** Removes what processes that were killed left beside a file: what nobody has written to for an hour. */
async function removeLeftovers(path: string): Promise<void> {
  const names = await readdir(dirname(path))
  for (const name of names.filter(name => name.startsWith(`${basename(path)}.`) && isUuid.test(name))) {
    const leftover = join(dirname(path), name)
    const found = await stat(leftover).catch(() => undefined)
    if (found && Date.now() - found.mtimeMs > 3_600_000) await rm(leftover, { force: true })
  }
}

/** A path as one would type it from here. */
export function shortened(path: string): string {
  const fromHere = relative('', path)
  return fromHere.startsWith('..') ? path : fromHere
}
