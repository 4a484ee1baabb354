/** One process at a time does work that several may want at once, such as a download; the others wait for it. */
import { randomUUID } from 'node:crypto'
import { mkdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname } from 'node:path'
import { codeOf } from '../../common/errors.ts'
import { runsHere } from '../../common/temporary-files.ts'
import { readRegular } from '../../common/regular-file.ts'

export type Turns = {
  /** Is called once, when there is somebody to wait for. */
  waiting?: () => void
  /** How long a lock may show no sign of life. */
  staleMilliseconds?: number
}

const beatMilliseconds = 1000
const lookMilliseconds = 100

/** Whose lock it is. */
type Owner = { host: string; pid: number; id: string }

/**
 * Does work while no other process does the same. Whoever works has a file, `path`.lock, and touches it every second;
 * where it is no longer touched, or its process is gone, the next one goes on. This spares work and is not needed for the
 * results to be right: a process that slept for long may find that another has begun, and the work has to bear that. So
 * where no lock can be made the work is done all the same.
 */
export async function inTurn<T>(path: string, work: () => Promise<T>, turns: Turns = {}): Promise<T> {
  const lock = `${path}.lock`
  const own = await take(lock, turns)
  if (own === undefined) return await work()
  const beat = setInterval(() => void touch(lock).catch(() => {}), beatMilliseconds)
  try {
    return await work()
  } finally {
    clearInterval(beat)
    if ((await contentOf(lock)) === own) await rm(lock, { force: true })
  }
}

/** Makes the lock once nobody has it. What is in it then; nothing if it cannot be made. */
async function take(
  lock: string,
  { waiting, staleMilliseconds = 20_000 }: Turns,
): Promise<string | undefined> {
  const own = JSON.stringify({ host: hostname(), pid: process.pid, id: randomUUID() } satisfies Owner)
  let seen = ''
  let since = performance.now()
  let isTold = false
  try {
    await mkdir(dirname(lock), { recursive: true })
  } catch {
    return undefined
  }
  for (;;) {
    try {
      await writeFile(lock, own, { flag: 'wx' })
      return own
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') return undefined
    }
    const content = await contentOf(lock)
    const touched = await stat(lock).then(
      ({ mtimeMs }) => mtimeMs,
      () => NaN,
    )
    // Another machine's clock may differ: what counts is that the time changes, by the clock here.
    if (seen !== `${touched} ${content}`) {
      seen = `${touched} ${content}`
      since = performance.now()
    }
    if (isGone(content) || performance.now() - since > staleMilliseconds) {
      if (await remove(lock, content)) continue
      return undefined
    }
    if (!isTold) waiting?.()
    isTold = true
    await new Promise(done => setTimeout(done, lookMilliseconds))
  }
}

/**
 * Removes a lock that has this content, unless another process was faster and has made its own. False where it cannot be
 * removed.
 */
async function remove(lock: string, content: string | undefined): Promise<boolean> {
  const aside = `${lock}.${randomUUID()}`
  try {
    await rename(lock, aside)
    if ((await contentOf(aside)) !== content) await rename(aside, lock)
    else await rm(aside, { recursive: true, force: true })
    return true
  } catch (error) {
    return codeOf(error) === 'ENOENT' // it is gone already
  }
}

async function touch(lock: string): Promise<void> {
  const now = new Date()
  await utimes(lock, now, now)
}

async function contentOf(lock: string): Promise<string | undefined> {
  return await readRegular(lock).then(String, () => undefined)
}

/** Whether a lock is that of a process of this machine which has ended. */
function isGone(content: string | undefined): boolean {
  const owner = readOwner(content)
  return owner?.host === hostname() && !runsHere(owner.pid)
}

function readOwner(content: string | undefined): Owner | undefined {
  try {
    const owner: unknown = JSON.parse(content ?? '')
    return isOwner(owner) ? owner : undefined
  } catch {
    return undefined // it is being written, or is none
  }
}

const isOwner = (value: unknown): value is Owner =>
  typeof value === 'object' &&
  value !== null &&
  'host' in value &&
  typeof value.host === 'string' &&
  'pid' in value &&
  typeof value.pid === 'number'
