import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { codeOf, reasonOf, UserError } from '../run/errors.ts'
import { nearestName } from '../run/nearest.ts'
import type { Corpus } from './corpus.ts'
import { bytes } from './tokenizer.ts'

const heldOut = 0.05

/** Any text file, as bytes: its last 5% are held out for validation. */
export async function loadTextFile(path: string, sequenceLength: number): Promise<Corpus> {
  const text = await readText(path)
  const validationLength = Math.floor(text.length * heldOut)
  const windowLength = sequenceLength + 1 // each token of a window is predicted from the ones before it
  if (validationLength < windowLength) {
    throw new UserError(
      `${path} is too short to train on: of its ${count(text.length)} bytes 5% are held out for validation, ` +
        `and these ${count(validationLength)} do not fill one window of ${count(windowLength)}. It takes ` +
        `${count(Math.ceil(windowLength / heldOut))} bytes, or a shorter sequence length.`,
    )
  }
  const trainLength = text.length - validationLength
  return {
    name: basename(path),
    train: text.subarray(0, trainLength),
    validation: text.subarray(trainLength),
    tokenizer: bytes,
    bytesPerToken: 1,
  }
}

async function readText(path: string): Promise<Uint8Array> {
  try {
    const found = await stat(path)
    if (found.isDirectory()) throw new UserError(`${path} is a folder: --data takes a text file.`)
    if (!found.isFile()) throw new UserError(`${path} is not a regular file: --data takes a text file.`)
    if (found.size === 0) throw new UserError(`${path} is empty: there is nothing to train on.`)
    return await readBytes(path, found.size)
  } catch (error) {
    if (error instanceof UserError) throw error
    if (codeOf(error) === 'ENOENT') {
      const nearest = await nearestFile(path)
      throw new UserError(`There is no file ${path}${nearest ? `: did you mean ${nearest}?` : '.'}`)
    }
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
}

/** A file's bytes; piece by piece, since Node's own readFile stops at 2 GiB. */
async function readBytes(path: string, size: number): Promise<Uint8Array> {
  const content = new Uint8Array(size)
  const file = await open(path)
  try {
    let length = 0
    while (length < size) {
      const { bytesRead } = await file.read(content, length, Math.min(size - length, 2 ** 30))
      if (bytesRead === 0) break // it became shorter meanwhile
      length += bytesRead
    }
    return content.subarray(0, length)
  } finally {
    await file.close()
  }
}

async function nearestFile(path: string): Promise<string | undefined> {
  const folder = dirname(path)
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const names = entries.filter(entry => entry.isFile()).map(entry => entry.name)
  const nearest = nearestName(basename(path), names)
  return nearest && join(folder, nearest)
}

function count(n: number): string {
  return n.toLocaleString('en')
}
