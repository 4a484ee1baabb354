import { basename, join, resolve } from 'node:path'
import { openHalves } from './halves.ts'
import { findFile, readPieces, type LocalFile } from './local-file.ts'
import { namesIn } from './regular-file.ts'
import type { Source, Text } from './text.ts'

/** A folder with a text in two files. */
export async function openFolder(folder: string): Promise<Source> {
  const [train, validation] = await openHalves(
    folder,
    await namesIn(folder),
    async name => await findFile(join(folder, name)),
  )
  const fileText = ({ path, size }: LocalFile): Text => ({ size, pieces: () => readPieces(path, 0, size) })
  return {
    name: basename(resolve(folder)),
    place: resolve(folder),
    version: [train, validation],
    train: fileText(train),
    validation: fileText(validation),
  }
}
