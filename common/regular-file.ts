/** Opens what a path names only if it is a regular file: whatever else may lie there, nothing waits for it. */
import type { Stats } from 'node:fs'
import { constants, open, readdir, readlink, stat, type FileHandle } from 'node:fs/promises'
import { codeOf, reasonOf, UserError } from './errors.ts'

/**
 * Opens a regular file to read it. A UserError says why that is impossible: there is no such file, it is a folder, a
 * named pipe, a device or a socket, or the system refuses. Opening a named pipe would wait until somebody writes to it,
 * so its kind is looked at first, and once more when it is open, since it may have changed in between.
 */
export async function openRegular(path: string): Promise<FileHandle> {
  await statRegular(path)
  // Without O_NONBLOCK a pipe that took the file's place meanwhile would still be waited for. Windows has no such flag.
  const file = await readable(path, () => open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)))
  try {
    refuseOthers(path, await readable(path, () => file.stat()))
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Size and times of a regular file; a UserError as openRegular's if it is none. `advice` is as in readable. */
export async function statRegular(path: string, advice?: () => Promise<string>): Promise<Stats> {
  const found = await readable(path, () => stat(path), advice)
  refuseOthers(path, found)
  return found
}

/** The content of a regular file; a UserError as openRegular's if it is none. */
export async function readRegular(path: string): Promise<Buffer> {
  const file = await openRegular(path)
  try {
    return await readable(path, () => file.readFile())
  } finally {
    await file.close()
  }
}

/** The names in a folder; a UserError if it cannot be read. */
export async function namesIn(folder: string): Promise<string[]> {
  return await readable(folder, () => readdir(folder))
}

/**
 * Runs what reads a path. Its errors become one sentence that names the path. `advice` ends the one that says that there
 * is no such file.
 */
export async function readable<T>(
  path: string,
  read: () => Promise<T>,
  advice: () => Promise<string> = async () => '',
): Promise<T> {
  try {
    return await read()
  } catch (error) {
    if (error instanceof UserError) throw error
    if (codeOf(error) !== 'ENOENT') throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
    const target = await readlink(path).catch(() => undefined)
    if (target !== undefined) throw new UserError(`${path} is a link to ${target}, which is not there.`)
    throw new UserError(`There is no file ${path === '' ? 'without a name' : path}${(await advice()) || '.'}`)
  }
}

function refuseOthers(path: string, found: Stats): void {
  if (found.isFile()) return
  const kind = found.isDirectory()
    ? 'a folder'
    : found.isFIFO()
      ? 'a named pipe'
      : found.isSocket()
        ? 'a socket'
        : found.isCharacterDevice() || found.isBlockDevice()
          ? 'a device'
          : 'something else'
  throw new UserError(`${path} is not a regular file but ${kind}.`)
}
