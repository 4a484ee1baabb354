/** The files in a run's folder. Somebody else may have made it: links, pipes and devices there are refused. */
import { constants, type FileHandle, lstat, open, readdir } from 'node:fs/promises'
import { openRegular } from '../../common/regular-file.ts'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'

/** Opens a file of a run's folder to read it; undefined if there is none. Throws UserError if it cannot be read. */
export async function openOwn(path: string): Promise<FileHandle | undefined> {
  return (await isThere(path)) ? await openRegular(path) : undefined
}

/** The text of a file of a run's folder; undefined if there is none. Throws UserError if it cannot be read. */
export async function readOwn(path: string): Promise<string | undefined> {
  const file = await openOwn(path)
  try {
    return await file?.readFile('utf8')
  } catch (error) {
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  } finally {
    await file?.close()
  }
}

/** Adds to a file of a run's folder; it is on the disk when this returns. */
export async function appendOwn(path: string, text: string): Promise<void> {
  // Neither through a link nor into a pipe. Windows has neither flag.
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
  const file = await open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The names in a folder of a run's folder; none where there is no such folder. Throws UserError if it cannot be read. */
export async function namesInOwn(folder: string): Promise<string[]> {
  if (!(await isThere(folder))) return []
  try {
    return await readdir(folder)
  } catch (error) {
    throw new UserError(`${folder} cannot be read (${reasonOf(error)}).`)
  }
}

/** Whether there is something of this name. A link is refused. */
async function isThere(path: string): Promise<boolean> {
  try {
    if (!(await lstat(path)).isSymbolicLink()) return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
  throw new UserError(`${path} is a link: a run's folder has its files in itself.`)
}
