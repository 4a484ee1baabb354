import { createHash } from 'node:crypto'
import { createReadStream, existsSync } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import http from 'node:http'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { codeOf, reasonOf, UserError } from '../../common/errors.ts'
import { statRegular } from '../../common/regular-file.ts'
import { shortened } from '../../common/whole-file.ts'

/** A file that is published for good: whatever server it comes from, it is these bytes. */
export type PublishedFile = { name: string; bytes: number; sha256: string }

/** Why a server did not give a file, to be put inside another message. */
export class DownloadError extends Error {
  override name = 'DownloadError'
}

export type Patience = {
  /** Times in a row that a server may break off without having given a hundredth of the file, or a megabyte. */
  tries: number
  /** Before the second try, give or take a half; twice as long before each further one. */
  waitMilliseconds: number
  /** Without a byte, after which a connection counts as broken. */
  stallMilliseconds: number
}

const patient: Patience = { tries: 4, waitMilliseconds: 500, stallMilliseconds: 30_000 }

/** Worth another try: a connection that broke, a server that is overloaded. */
class Interruption extends Error {}

/**
 * Fetches a file to `path`. What has arrived is in `path`.part and is gone on from, now or at the next start;
 * only when size and sha256 are right does it get its name. Throws a DownloadError when the server does not
 * give it, and a UserError when the disk does not take it.
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
    // Another process that fetched the same may have been faster.
    if (existsSync(path) && (await isIntact(path, file))) return
    throw error
  }
  await rm(part, { force: true })
  if (!resumed) throw new DownloadError('what it sends is not that file: its sha256 differs')
  // What was there before may have been the wrong part: once more, from the start.
  await download(url, file, path, progress, patience)
}

/** Fetches what a file lacks, in as many requests as it takes; tells whether something was there already. */
async function receiveAll(
  url: string,
  bytes: number,
  path: string,
  progress: (received: number) => void,
  patience: Patience,
): Promise<boolean> {
  if (existsSync(path)) await statRegular(path)
  // Node looks at HTTPS_PROXY and the like only when it is told to, and before 24.14 not even then.
  if ('setGlobalProxyFromEnv' in http) http.setGlobalProxyFromEnv()
  const file = await onDisk(path, async () => {
    await mkdir(dirname(path), { recursive: true })
    await (await open(path, 'a')).close() // makes it if need be; writes would all go to its end
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
          // A server that cannot go on in the middle begins again: what had come before is still there.
          arrived.bytes = Math.max(arrived.bytes, end)
          progress(end)
        }
      } catch (error) {
        if (!(error instanceof Interruption)) throw error
        // So the tries have an end, even where every one of them brings a byte more.
        if (arrived.bytes - before >= Math.min(2 ** 20, bytes / 100)) {
          failures = 0
          before = arrived.bytes
        }
        if (++failures >= patience.tries) throw new DownloadError(error.message)
        // Those who were cut off together do not come back together.
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

/** Whether a file is all there and the right one. */
export async function isIntact(path: string, { bytes, sha256 }: PublishedFile): Promise<boolean> {
  return (await stat(path)).size === bytes && (await hashFile(path)) === sha256
}

/** One request: what comes, and where in the file it belongs. */
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
    stall.abort() // nothing more is wanted, whatever the reason
  }
}

/** Where in the file an answer's bytes belong. */
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

/** Errors of the network, by the code that a search for help needs. */
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
