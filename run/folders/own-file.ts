/** Reads and appends to files in a run's folder. The folder may come from someone else: links, pipes and devices are refused. */
import { constants, type FileHandle, lstat, open } from 'node:fs/promises'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import { namesIn, openRegular, readable } from '../../common/regular-file.ts'

/** Opens a file for reading; undefined if it does not exist. Throws a UserError if it cannot be read. */
export async function openOwn(path: string): Promise<FileHandle | undefined> {
  return (await exists(path)) ? await openRegular(path) : undefined
}

/** The text of a file; undefined if it does not exist. Throws a UserError if it cannot be read. */
export async function readOwn(path: string): Promise<string | undefined> {
  const file = await openOwn(path)
  if (!file) return undefined
  try {
    return await readable(path, () => file.readFile('utf8'))
  } finally {
    await file.close()
  }
}

/** Appends to a file. The text is on the disk when this returns. */
export async function appendOwn(path: string, text: string): Promise<void> {
  // Does not follow a link and does not wait for a pipe's reader. Windows has neither flag.
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
  const file = await open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The names in a folder of the run's folder; none if it does not exist. Throws a UserError if it cannot be read. */
export async function namesInOwn(folder: string): Promise<string[]> {
  return (await exists(folder)) ? await namesIn(folder) : []
}

/** Whether a path exists. Throws a UserError for a link. */
async function exists(path: string): Promise<boolean> {
  try {
    if (!(await lstat(path)).isSymbolicLink()) return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
  throw new UserError(`${path} is a link. The files of a run must be in its own folder.`)
}
