/** A text file, whose last 5% are held out for validation. */
import { basename, resolve } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { bytes } from '../tokens/tokenizer.ts'
import { findFile, readPieces } from './local-file.ts'
import type { Format } from './source.ts'
import { fileText } from './text.ts'

const heldOut = 0.05

export const textFile: Format = {
  tokenizer: bytes,
  matches: (_, isFolder) => !isFolder,
  async open(path, { sequenceLength }) {
    const file = await findFile(path)
    const { size } = file
    const validationLength = Math.floor(size * heldOut)
    const windowLength = sequenceLength + 1 // the last token is only a target
    if (validationLength < windowLength) {
      throw new UserError(
        `${path} is too short to train on: of its ${count(size)} bytes 5% are held out for validation, ` +
          `and these ${count(validationLength)} do not fill one window of ${count(windowLength)}. It takes ` +
          `${count(Math.ceil(windowLength / heldOut))} bytes, or a shorter sequence length.`,
      )
    }
    const cut = await characterStart(path, size - validationLength)
    return {
      name: basename(path),
      place: resolve(path),
      version: [file],
      train: fileText(file, 0, cut),
      validation: fileText(file, cut, size),
    }
  },
}

/** Where the UTF-8 character that contains a byte begins. */
async function characterStart(path: string, place: number): Promise<number> {
  for await (const bytes of readPieces(path, Math.max(0, place - 3), place + 1)) {
    const start = bytes.findLastIndex(byte => (byte & 0xc0) !== 0x80)
    if (start >= 0) return place - (bytes.length - 1 - start)
  }
  return place
}

function count(n: number): string {
  return n.toLocaleString('en')
}
