/** Makes the folder of a new run. */
import { existsSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import { filesOf } from './run-files.ts'
import { makeFolders } from '../../common/make-folders.ts'

/** Date and time as a name that sorts: 2026-03-31-235959. */
export const dateName = (date = new Date()): string =>
  date.toLocaleString('sv').replace(' ', '-').replaceAll(':', '')

/** Throws a UserError unless a new run may have this name. */
export async function refuseTaken(runs: string, name: string | undefined): Promise<void> {
  if (name === undefined) return
  if (!/^\w[\w.-]*$/.test(name)) {
    throw new UserError(`--run takes a name of letters, digits, - _ and ., not "${name}".`)
  }
  const folder = join(runs, name)
  const found = await readdir(folder).catch(error => {
    if (codeOf(error) === 'ENOENT') return []
    throw new UserError(`${folder} cannot be made (${reasonOf(error)}).`)
  })
  // A run that was killed at its start may have left such files.
  const left = found.filter(other => !/^lock-|\.part$/.test(other))
  if (left.length === 0) return
  if (existsSync(filesOf(folder).config)) {
    throw new UserError(`${folder} exists: take another name, or go on with it: --resume ${name}`)
  }
  throw new UserError(`${folder} exists, and is not the folder of a run: take another name.`)
}

/** Makes the folder of a new run, and returns its name. */
export async function makeFolder(runs: string, wanted: string | undefined): Promise<string> {
  for (let i = 1; ; i++) {
    const name = wanted ?? (i === 1 ? dateName() : `${dateName()}-${i}`)
    if (await isMade(runs, join(runs, name))) return name
    if (wanted === undefined) continue
    // Another process may have taken it in the meantime.
    await refuseTaken(runs, wanted)
    return name
  }
}

/** Makes a folder and its parents. Returns false if the folder existed already. */
async function isMade(above: string, folder: string): Promise<boolean> {
  try {
    await makeFolders(above)
    return await mkdir(folder).then(
      () => true,
      error => codeOf(error) !== 'EEXIST' && Promise.reject(error),
    )
  } catch (error) {
    throw new UserError(`${folder} cannot be made (${reasonOf(error)}).`)
  }
}
