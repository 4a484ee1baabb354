/** A folder with a text in two files, one for training and one for validation. */
import { basename, join, resolve } from 'node:path'
import { namesIn } from '../../common/regular-file.ts'
import { bytes } from '../tokens/tokenizer.ts'
import { findFile } from './local-file.ts'
import type { Format } from './source.ts'
import { openSplits } from './split-files.ts'
import { fileText } from './text.ts'

export const textFolder: Format = {
  tokenizer: bytes,
  matches: (_, isFolder) => isFolder,
  async open(folder) {
    const names = await namesIn(folder)
    const [train, validation] = await openSplits(folder, names, name => findFile(join(folder, name)))
    return {
      name: basename(resolve(folder)),
      place: resolve(folder),
      version: [train, validation],
      train: fileText(train, 0, train.size),
      validation: fileText(validation, 0, validation.size),
    }
  },
}
