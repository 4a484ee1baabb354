/** Knows a file by its content: a hash that is found by reading it once, and looked up afterwards. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createProgress, type Screen } from '../run/progress.ts'
import { changed, findFile, readPieces, type LocalFile } from './local-file.ts'
import { openRegular, readable, readRegular, statRegular } from './regular-file.ts'
import { writeWhole } from './whole-file.ts'

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

/** What is known of a file that was read: its hash, and what says that it is still that file. */
type Note = { format: string; path: string; version: string; samples: string; sha256: string; seal: string }

/**
 * The SHA-256 of a file, as hexadecimal digits. A large one is read whole the first time only. That is noted in the
 * cache, and holds as long as the size, the times of the last changes and 64 blocks spread over the file are the same.
 * `report` is told when a large file is read, and `screen` shows how far that is.
 */
export async function contentOf(
  file: LocalFile,
  cacheFolder: string,
  { report = () => {}, screen }: Telling = {},
): Promise<string> {
  if (file.size <= readAlways) return await hashWhole(file, screen)
  const path = resolve(file.path)
  const notePath = join(cacheFolder, noteFolder, `${sha256(path).slice(0, 32)}.json`)
  const sampled = await hashSamples(file)
  const known = await readNote(notePath)
  if (known?.path === path && known.version === file.version && known.samples === sampled) return known.sha256
  report(`Reading ${file.path} once, to know its content again.`)
  const started = Date.now()
  const content = await hashWhole(file, screen)
  if (started - (await statRegular(path)).ctimeMs > tickMilliseconds) {
    const note = { format, path, version: file.version, samples: sampled, sha256: content }
    await keepNote(join(cacheFolder, noteFolder), notePath, { ...note, seal: sealOf(note) })
  }
  return content
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
  if (now.version === before.version || (await hashWhole(now, screen)) === content) return
  throw changed(before.path)
}

async function hashWhole({ path, size, version }: LocalFile, screen: Screen | undefined): Promise<string> {
  const hash = createHash('sha256')
  const progress = createProgress(screen)
  let done = 0
  try {
    for await (const piece of readPieces(path, 0, size)) {
      hash.update(piece)
      done += piece.length
      progress.update(done / size, `read ${(done / 1e6).toFixed(0)} of ${(size / 1e6).toFixed(0)} MB`)
    }
  } finally {
    progress.clear()
  }
  if ((await findFile(path)).version !== version) throw changed(path)
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

function sealOf({ format, path, version, samples, sha256: content }: Omit<Note, 'seal'>): string {
  return sha256(JSON.stringify([format, path, version, samples, content]))
}

function isNote(value: unknown): value is Note {
  if (typeof value !== 'object' || value === null) return false
  const entries = new Map<string, unknown>(Object.entries(value))
  const names = ['format', 'path', 'version', 'samples', 'sha256', 'seal']
  return names.every(name => typeof entries.get(name) === 'string')
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
