import { basename, join, resolve } from 'node:path'
import { openHalves } from './split-files.ts'
import { findFile } from './local-file.ts'
import { namesIn } from '../../common/regular-file.ts'
import { fileText, type Source } from './text.ts'

/** A folder with a text in two files. */
export async function openFolder(folder: string): Promise<Source> {
  const [train, validation] = await openHalves(
    folder,
    await namesIn(folder),
    async name => await findFile(join(folder, name)),
  )
  return {
    name: basename(resolve(folder)),
    place: resolve(folder),
    version: [train, validation],
    train: fileText(train, 0, train.size),
    validation: fileText(validation, 0, validation.size),
  }
}
