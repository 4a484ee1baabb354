import { randomUUID } from 'node:crypto'
import { type FileHandle, lstat, open, readdir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/**
 * Writes beside and renames: whoever reads `path`, now or after a crash, finds all of the new content or all of
 * the old. When writing fails, with a full disk for one, the error is thrown and nothing has changed.
 */
export async function writeWhole(
  path: string,
  content: string | Uint8Array | ((file: FileHandle) => Promise<void>),
): Promise<void> {
  const beside = `${path}.${randomUUID()}.part`
  try {
    const file = await open(beside, 'wx')
    try {
      if (typeof content === 'function') await content(file)
      else await file.writeFile(content)
      await file.sync() // or a power cut could leave the new name with nothing behind it
    } finally {
      await file.close()
    }
    await rename(beside, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {})
    throw error
  }
}

/** Makes a rename last; where folders cannot be opened, as on Windows, the system sees to that itself. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder).catch(() => undefined)
  await handle?.sync().catch(() => {})
  await handle?.close()
}

const isPart = /\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.part$/

/** Removes what writeWhole leaves in a folder when its process is killed: what nobody wrote to for so long. */
export async function removeParts(
  folder: string,
  milliseconds: number,
  isWanted: (name: string) => boolean = () => true,
): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names.filter(name => isPart.test(name) && isWanted(name))) {
    const path = join(folder, name)
    const found = await lstat(path).catch(() => undefined)
    // One that cannot be removed does no harm.
    if (found?.isFile() && Date.now() - found.mtimeMs >= milliseconds) await rm(path).catch(() => {})
  }
}
