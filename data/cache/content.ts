/** Remembers what reading a large file found, so that an unchanged file is not read again. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createProgress, type Screen } from '../../common/progress.ts'
import { changed, findFile, readPieces, type LocalFile } from '../sources/local-file.ts'
import { openRegular, readable, readRegular, statRegular } from '../../common/regular-file.ts'
import { writeCached } from './cache-file.ts'
import { isRecord, parseJson } from '../../common/json.ts'

const format = 'hlb-gpt content 1'
/** The folder of the cache that has the notes. */
export const noteFolder = 'contents'
/** A file up to this size is read each time, which takes a hundredth of a second. */
const readAlways = 2 ** 24
const samples = 64
const sampleBytes = 4096
/** Two changes within one tick of the system's clock leave the same time. This is longer than any tick. */
const tickMilliseconds = 2000

/** How slow work is reported: by messages, and by a progress line. */
export type Reporting = { report?: ((message: string) => void) | undefined; screen?: Screen | undefined }

/** What reading a file found, and how to recognize that the file is unchanged. */
type Note = {
  format: string
  path: string
  what: string
  version: string
  samples: string
  found: string
  seal: string
}

/** The SHA-256 of a file, as hexadecimal digits: see readOnce. */
export async function contentOf(
  file: LocalFile,
  cacheFolder: string,
  reporting: Reporting = {},
): Promise<string> {
  return await readOnce(file, 'sha256', show => hashWhole(file, show), cacheFolder, reporting)
}

/**
 * The result of `read` on a file; `what` names the question that it answers. A large file is read only the first time. The
 * result is noted in the cache, and is valid as long as the size, the times of the last changes and 64 blocks spread over
 * the file stay the same. `read` calls `show` with the number of bytes read. Throws a UserError if the file changes in the
 * meantime. `report` is called when a large file is read, and `screen` shows the progress.
 */
export async function readOnce(
  file: LocalFile,
  what: string,
  read: (show: (bytes: number) => void) => Promise<string>,
  cacheFolder: string,
  { report, screen }: Reporting = {},
): Promise<string> {
  if (file.size <= readAlways) return await readUnchanged(file, read, screen)
  const path = resolve(file.path)
  const { version } = file
  const folder = join(cacheFolder, noteFolder)
  const notePath = join(folder, `${sha256(`${what} ${path}`).slice(0, 32)}.json`)
  const sampled = await hashSamples(file)
  const known = await readNote(notePath)
  const isSame = known?.path === path && known.version === version && known.samples === sampled
  if (known?.what === what && isSame) return known.found
  report?.(`Reading ${file.path} once, to recognize its content later.`)
  const started = Date.now()
  const found = await readUnchanged(file, read, screen)
  if (started - (await statRegular(path)).ctimeMs > tickMilliseconds) {
    const note = { format, path, what, version, samples: sampled, found }
    await keepNote(folder, notePath, { ...note, seal: sealOf(note) })
  }
  return found
}

/**
 * Throws a UserError if the content of a file has changed, since what was read in between may mix old and new. The file is
 * read again only if its times have changed.
 */
export async function refuseChanged(
  before: LocalFile,
  content: string,
  { screen }: Reporting = {},
): Promise<void> {
  const now = await findFile(before.path)
  if (now.version === before.version) return
  if ((await readUnchanged(now, show => hashWhole(now, show), screen)) !== content) throw changed(before.path)
}

/** Reads a file and shows progress. Throws a UserError if the file changes in the meantime. */
async function readUnchanged(
  { path, size, version }: LocalFile,
  read: (show: (bytes: number) => void) => Promise<string>,
  screen: Screen | undefined,
): Promise<string> {
  const progress = createProgress(screen)
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(0)
  try {
    const found = await read(bytes =>
      progress.update(bytes / size, `read ${megabytes(bytes)} of ${megabytes(size)} MB`),
    )
    if ((await findFile(path)).version !== version) throw changed(path)
    return found
  } finally {
    progress.clear()
  }
}

async function hashWhole({ path, size }: LocalFile, show: (bytes: number) => void): Promise<string> {
  const hash = createHash('sha256')
  let done = 0
  for await (const piece of readPieces(path, 0, size)) {
    hash.update(piece)
    done += piece.length
    show(done)
  }
  return hash.digest('hex')
}

/** A hash of blocks spread evenly over a file, including its first and last bytes. */
async function hashSamples({ path, size }: LocalFile): Promise<string> {
  const hash = createHash('sha256')
  const file = await openRegular(path)
  try {
    const block = new Uint8Array(sampleBytes)
    for (let i = 0; i < samples; i++) {
      const at = Math.floor(((size - sampleBytes) * i) / (samples - 1))
      const { bytesRead } = await readable(path, () => file.read(block, 0, sampleBytes, at))
      hash.update(block.subarray(0, bytesRead))
    }
  } finally {
    await file.close()
  }
  return hash.digest('hex')
}

/** Writes a note, and removes notes on deleted files. If the cache cannot be written, the file is read again next time. */
async function keepNote(folder: string, path: string, note: Note): Promise<void> {
  try {
    await writeCached(path, JSON.stringify(note))
    for (const name of await readdir(folder)) {
      const other = await readNote(join(folder, name))
      if (other && !existsSync(other.path)) await rm(join(folder, name), { force: true })
    }
  } catch {
    // A note only saves time.
  }
}

/** A note; undefined if it cannot be read or was altered. */
async function readNote(path: string): Promise<Note | undefined> {
  const note = parseJson(await readRegular(path).then(String, () => ''))
  return isNote(note) && note.format === format && note.seal === sealOf(note) ? note : undefined
}

function sealOf({ format, path, what, version, samples, found }: Omit<Note, 'seal'>): string {
  return sha256(JSON.stringify([format, path, what, version, samples, found]))
}

function isNote(value: unknown): value is Note {
  const names = ['format', 'path', 'what', 'version', 'samples', 'found', 'seal']
  return isRecord(value) && names.every(name => typeof value[name] === 'string')
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
