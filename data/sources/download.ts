/** Downloads a published file, checks its hash, and resumes interrupted downloads. */
import { createHash } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { open, rename, rm, stat } from 'node:fs/promises'
import http from 'node:http'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { codeOf, reasonOf, UserError } from '../../common/errors.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { statRegular } from '../../common/regular-file.ts'
import { shortened } from '../../common/whole-file.ts'

/** A file that never changes: every server that has it serves the same bytes. */
export type PublishedFile = { name: string; bytes: number; sha256: string }

/** The reason why a server did not provide a file, for use inside another message. */
export class DownloadError extends Error {
  override name = 'DownloadError'
}

export type Patience = {
  /** How many attempts in a row may fail before a hundredth of the file, or a megabyte, has arrived. */
  tries: number
  /** The wait before the second attempt, plus or minus half of it at random. It doubles before each further one. */
  waitMilliseconds: number
  /** How long a connection may stay silent before it counts as broken. */
  stallMilliseconds: number
}

const patient: Patience = { tries: 4, waitMilliseconds: 500, stallMilliseconds: 30_000 }

/** A failure that may pass: a broken connection, or an overloaded server. */
class Interruption extends Error {}

/**
 * Downloads a file to `path`. The bytes received so far are in `path`.part, and an interrupted download resumes from
 * there, even after a restart. The file gets its name only if its size and sha256 are right. Throws a DownloadError if the
 * server does not provide the file, and a UserError if it cannot be written to the disk.
 */
export async function download(
  url: string,
  file: PublishedFile,
  path: string,
  progress: (received: number) => void = () => {},
  patience = patient,
): Promise<void> {
  const part = `${path}.part`
  const resumed = await receiveAll(url, file.bytes, part, progress, patience)
  try {
    if ((await hashFile(part)) === file.sha256) return await onDisk(path, () => rename(part, path))
  } catch (error) {
    // Another process may have finished the same download first.
    if (existsSync(path) && (await isIntact(path, file))) return
    throw error
  }
  await rm(part, { force: true })
  if (!resumed) throw new DownloadError('what it sends is not that file: its sha256 differs')
  // The bytes from an earlier download may have been wrong, so this tries again from the start.
  await download(url, file, path, progress, patience)
}

/** Downloads the missing bytes of a file, in as many requests as it takes. Returns whether the file had bytes before. */
async function receiveAll(
  url: string,
  bytes: number,
  path: string,
  progress: (received: number) => void,
  patience: Patience,
): Promise<boolean> {
  if (existsSync(path)) await statRegular(path)
  // Node uses HTTPS_PROXY and similar variables only after this call, which exists since 24.14.
  if ('setGlobalProxyFromEnv' in http) http.setGlobalProxyFromEnv()
  const file = await onDisk(path, async () => {
    await makeFolders(dirname(path))
    await (await open(path, 'a')).close() // creates the file; writes in this mode would all go to its end
    return await open(path, 'r+')
  })
  const { size } = await file.stat()
  const arrived = { bytes: size <= bytes ? size : 0 }
  let [failures, before] = [0, arrived.bytes]
  try {
    while (arrived.bytes < bytes) {
      try {
        for await (const piece of receive(url, arrived.bytes, bytes, patience.stallMilliseconds)) {
          await onDisk(path, () => file.write(piece.bytes, 0, piece.bytes.length, piece.at))
          const end = piece.at + piece.bytes.length
          // A server without range requests starts over, but the bytes from before are still there.
          arrived.bytes = Math.max(arrived.bytes, end)
          progress(end)
        }
      } catch (error) {
        if (!(error instanceof Interruption)) throw error
        // Only real progress resets the count; otherwise attempts that bring one byte each would never end.
        if (arrived.bytes - before >= Math.min(2 ** 20, bytes / 100)) {
          failures = 0
          before = arrived.bytes
        }
        if (++failures >= patience.tries) throw new DownloadError(error.message)
        // The random part spreads out clients that were cut off at the same time.
        const wait = patience.waitMilliseconds * 2 ** (failures - 1) * (0.5 + Math.random())
        await new Promise(done => setTimeout(done, wait))
      }
    }
    await onDisk(path, () => file.truncate(bytes))
    return size > 0 && size <= bytes
  } finally {
    await file.close()
    if (arrived.bytes === 0) await rm(path, { force: true })
  }
}

/** Whether a file has the right size and hash. */
export async function isIntact(path: string, { bytes, sha256 }: PublishedFile): Promise<boolean> {
  return (await stat(path)).size === bytes && (await hashFile(path)) === sha256
}

/** Makes one request, and yields the bytes received with their positions in the file. */
async function* receive(
  url: string,
  from: number,
  bytes: number,
  stallMilliseconds: number,
): AsyncGenerator<{ at: number; bytes: Uint8Array }> {
  const stall = new AbortController()
  const timer = setTimeout(() => stall.abort(), stallMilliseconds)
  try {
    const headers = { 'accept-encoding': 'identity', ...(from > 0 ? { range: `bytes=${from}-` } : {}) }
    const response = await connected(() => fetch(url, { headers, signal: stall.signal }))
    let at = startOf(response, from)
    const offered = at + Number(response.headers.get('content-length') ?? bytes - at)
    if (offered !== bytes) {
      throw new DownloadError(`it offers ${count(offered)} bytes, and the file has ${count(bytes)}`)
    }
    const pieces = response.body?.values()
    for (;;) {
      const piece = await connected(async () => await pieces?.next())
      if (!piece || piece.done) break
      timer.refresh()
      if (at + piece.value.length > bytes) {
        throw new DownloadError(`it sends more than the ${count(bytes)} bytes that the file has`)
      }
      yield { at, bytes: piece.value }
      at += piece.value.length
    }
    if (at < bytes)
      throw new Interruption(`the connection broke off after ${count(at)} of ${count(bytes)} bytes`)
  } finally {
    clearTimeout(timer)
    stall.abort() // ends the request if it is still running
  }
}

/** The position in the file of a response's first byte. */
function startOf(response: Response, from: number): number {
  const { status, statusText, headers } = response
  if (status === 200) return 0
  if (status === 206) {
    const start = /^bytes (\d+)-/.exec(headers.get('content-range') ?? '')?.[1]
    if (start !== undefined && Number(start) <= from) return Number(start)
  }
  const said = `${status} ${statusText}`.trim()
  if (status >= 500 || status === 429 || status === 408) throw new Interruption(`it answers ${said}`)
  throw new DownloadError(`it answers ${said}`)
}

/** Turns network errors into Interruptions with the error code, which the user can search for. */
async function connected<T>(action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
    const isStall = error instanceof Error && error.name === 'AbortError'
    throw new Interruption(isStall ? 'nothing came any more' : (codeOf(cause) ?? reasonOf(cause)))
  }
}

async function onDisk<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw new UserError(`${shortened(path)} could not be written (${reasonOf(error)}).`)
  }
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), hash)
  return hash.digest('hex')
}

function count(n: number): string {
  return n.toLocaleString('en')
}
