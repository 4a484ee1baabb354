/** Knows a file by its content: what is found by reading it once is looked up afterwards. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createProgress, type Screen } from '../../common/progress.ts'
import { changed, findFile, readPieces, type LocalFile } from '../sources/local-file.ts'
import { openRegular, readable, readRegular, statRegular } from '../../common/regular-file.ts'
import { writeWhole } from '../../common/whole-file.ts'

const format = 'hlb-gpt content 1'
/** Where the cache has its notes. */
export const noteFolder = 'contents'
/** Up to this size a file is read each time: it takes a hundredth of a second. */
const readAlways = 2 ** 24
const samples = 64
const sampleBytes = 4096
/** Within a tick of the system's clock, a file can be changed twice and its times tell only once. */
const tickMilliseconds = 2000

/** Who is told what takes a while. */
export type Telling = { report?: ((message: string) => void) | undefined; screen?: Screen | undefined }

/** What is known of a file that was read: what was found in it, and what says that it is still that file. */
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
  telling: Telling = {},
): Promise<string> {
  return await readOnce(file, 'sha256', show => hashWhole(file, show), cacheFolder, telling)
}

/**
 * What reading a file tells, by the name of `what`. A large file is read the first time only. What `read` found is noted
 * in the cache, and holds as long as the size, the times of the last changes and 64 blocks spread over the file are the
 * same. `read` tells `show` how many bytes it has read. A file that changes meanwhile is a UserError. `report` is told
 * when a large file is read, and `screen` shows how far that is.
 */
export async function readOnce(
  file: LocalFile,
  what: string,
  read: (show: (bytes: number) => void) => Promise<string>,
  cacheFolder: string,
  { report, screen }: Telling = {},
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
  report?.(`Reading ${file.path} once, to know its content again.`)
  const started = Date.now()
  const found = await readUnchanged(file, read, screen)
  if (started - (await statRegular(path)).ctimeMs > tickMilliseconds) {
    const note = { format, path, what, version, samples: sampled, found }
    await keepNote(folder, notePath, { ...note, seal: sealOf(note) })
  }
  return found
}

/**
 * Throws a UserError when a file no longer has the content that it had: what was read of it since may be half old, half
 * new. Only a file whose times have changed is read for it.
 */
export async function refuseChanged(
  before: LocalFile,
  content: string,
  { screen }: Telling = {},
): Promise<void> {
  const now = await findFile(before.path)
  if (now.version === before.version) return
  if ((await readUnchanged(now, show => hashWhole(now, show), screen)) !== content) throw changed(before.path)
}

/** Reads a file, with progress; a UserError if it changes meanwhile. */
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

/** A hash of blocks spread evenly over a file, the first and the last bytes among them. */
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

/** Notes what is known of a file. Where the cache cannot be written, it is found anew each time. */
async function keepNote(folder: string, path: string, note: Note): Promise<void> {
  try {
    await writeWhole(path, file => file.writeFile(JSON.stringify(note)))
    for (const name of await readdir(folder)) {
      const other = await readNote(join(folder, name))
      if (other && !existsSync(other.path)) await rm(join(folder, name), { force: true })
    }
  } catch {
    // It only saves time.
  }
}

/** What a note says, unless it cannot be read or was altered. */
async function readNote(path: string): Promise<Note | undefined> {
  try {
    const note: unknown = JSON.parse((await readRegular(path)).toString())
    return isNote(note) && note.format === format && note.seal === sealOf(note) ? note : undefined
  } catch {
    return undefined
  }
}

function sealOf({ format, path, what, version, samples, found }: Omit<Note, 'seal'>): string {
  return sha256(JSON.stringify([format, path, what, version, samples, found]))
}

function isNote(value: unknown): value is Note {
  if (typeof value !== 'object' || value === null) return false
  const entries = new Map<string, unknown>(Object.entries(value))
  const names = ['format', 'path', 'what', 'version', 'samples', 'found', 'seal']
  return names.every(name => typeof entries.get(name) === 'string')
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
