import { basename, resolve } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { findFile, readPieces } from './local-file.ts'
import { fileText, type Source } from './text.ts'

const heldOut = 0.05

/** Any text file: its last 5% are held out for validation. */
export async function openTextFile(path: string, sequenceLength: number): Promise<Source> {
  const file = await findFile(path)
  const { size } = file
  const validationLength = Math.floor(size * heldOut)
  const windowLength = sequenceLength + 1 // each token of a window is predicted from the ones before it
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
}

/** Where the UTF-8 character that a byte belongs to begins. */
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
