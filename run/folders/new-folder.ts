/** The folder of a new run. */
import { existsSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import { dateName, filesOf } from './find-run.ts'
import { makeFolders } from '../../common/make-folders.ts'

/** Throws UserError unless a new run may have this name. */
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
  // What a run that was killed before it began may have left.
  const left = found.filter(other => !/^lock-|\.part$/.test(other))
  if (left.length === 0) return
  if (existsSync(filesOf(folder).config)) {
    throw new UserError(`${folder} exists: take another name, or go on with it: --resume ${name}`)
  }
  throw new UserError(`${folder} exists, and is no run's folder: take another name.`)
}

/** Makes the folder of a new run, and says its name. */
export async function makeFolder(runs: string, wanted: string | undefined): Promise<string> {
  for (let i = 1; ; i++) {
    const name = wanted ?? (i === 1 ? dateName() : `${dateName()}-${i}`)
    if (await isMade(runs, join(runs, name))) return name
    if (wanted === undefined) continue
    // Somebody else may have taken it meanwhile.
    await refuseTaken(runs, wanted)
    return name
  }
}

/** Makes a folder, and those above it. False when it was there before. */
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
