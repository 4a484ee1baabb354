/** Reads paths that users name, with errors in sentences. Only regular files are opened, so nothing hangs on a pipe. */
import type { Stats } from 'node:fs'
import { constants, open, readdir, readlink, stat, type FileHandle } from 'node:fs/promises'
import { codeOf, reasonOf, UserError } from './errors.ts'

/**
 * Opens a regular file for reading. Throws a UserError if there is no such file, if it is a folder, a named pipe, a device
 * or a socket, or if the system refuses. Opening a named pipe would block until somebody writes to it, so the kind is
 * checked first, and again once the file is open, since it may have changed in between.
 */
export async function openRegular(path: string): Promise<FileHandle> {
  await statRegular(path)
  // O_NONBLOCK: if a pipe has replaced the file since, opening it does not block. Windows has no such flag.
  const file = await readable(path, () => open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)))
  try {
    refuseOthers(path, await readable(path, () => file.stat()))
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Size and times of a regular file. Throws a UserError as openRegular does. */
export async function statRegular(path: string): Promise<Stats> {
  const found = await readable(path, () => stat(path))
  refuseOthers(path, found)
  return found
}

/** The content of a regular file. Throws a UserError as openRegular does. */
export async function readRegular(path: string): Promise<Buffer> {
  const file = await openRegular(path)
  try {
    return await readable(path, () => file.readFile())
  } finally {
    await file.close()
  }
}

/** The names in a folder. Throws a UserError if it cannot be read. */
export async function namesIn(folder: string): Promise<string[]> {
  return await readable(folder, () => readdir(folder))
}

/**
 * Runs a function that reads a path, and turns its errors into UserErrors that name the path. If there is no such file,
 * the message ends with `advice`.
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
