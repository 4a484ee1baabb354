/** Writes files of the cache, and tidies its folders. */
import type { FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { reasonOf, UserError } from '../../common/errors.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { isTemporary, removeLeftovers } from '../../common/temporary-files.ts'
import { shortened, writeWhole } from '../../common/whole-file.ts'

/**
 * Writes a file of the cache, and makes its folder if need be. Errors of `write` itself are thrown as they are; those of
 * the disk become a UserError.
 */
export async function writeCached(
  path: string,
  write: Uint8Array | string | ((file: FileHandle) => Promise<void>),
): Promise<void> {
  try {
    await makeFolders(dirname(path))
    await writeWhole(path, write)
  } catch (error) {
    const isDiskError = error instanceof Error && 'syscall' in error && !(error instanceof UserError)
    throw isDiskError ? new UserError(`${shortened(path)} could not be written (${reasonOf(error)}).`) : error
  }
}

/** Removes the temporary files and locks that killed processes left in a folder of the cache. */
export async function tidyCache(folder: string): Promise<void> {
  await removeLeftovers(folder, { isWanted: name => isTemporary(name) || name.endsWith('.lock') })
}
