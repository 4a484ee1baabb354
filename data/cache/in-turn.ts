/** Lets one process at a time do work that several may need, such as a download, while the others wait for it. */
import { randomUUID } from 'node:crypto'
import { rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { codeOf } from '../../common/errors.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { readIdentity, stillRuns, thisProcess } from '../../common/process-identity.ts'
import { readRegular } from '../../common/regular-file.ts'

export type Turns = {
  /** Called once if this process has to wait. */
  waiting?: () => void
  /** How long a lock may go untouched before it counts as abandoned. */
  staleMilliseconds?: number
}

const touchMilliseconds = 1000
const pollMilliseconds = 100

/**
 * Does work that no other process does at the same time. The working process owns the file `path`.lock and touches it
 * every second. Once the file is no longer touched, or its process has ended, the next process starts. This only saves
 * work and is not needed for correct results: a process that was suspended may find that another one has started, and the
 * work has to tolerate that. So if no lock can be made, the work is done all the same.
 */
export async function inTurn<T>(path: string, work: () => Promise<T>, turns: Turns = {}): Promise<T> {
  const lock = `${path}.lock`
  const own = await take(lock, turns)
  if (own === undefined) return await work()
  const timer = setInterval(() => void touch(lock).catch(() => {}), touchMilliseconds)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    if ((await contentOf(lock)) === own) await rm(lock, { force: true })
  }
}

/** Waits until the lock is free and takes it. Returns its content; undefined if no lock can be made. */
async function take(
  lock: string,
  { waiting, staleMilliseconds = 20_000 }: Turns,
): Promise<string | undefined> {
  const self = await thisProcess()
  const own = JSON.stringify({ ...self, id: randomUUID() })
  let seen = ''
  let since = performance.now()
  let isTold = false
  try {
    await makeFolders(dirname(lock))
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
    // Another machine's clock may differ, so this measures by its own clock how long the time has not changed.
    if (seen !== `${touched} ${content}`) {
      seen = `${touched} ${content}`
      since = performance.now()
    }
    const hasEnded = (await stillRuns(readIdentity(content ?? ''), self)) === false
    if (hasEnded || performance.now() - since > staleMilliseconds) {
      if (await remove(lock, content)) continue
      return undefined
    }
    if (!isTold) waiting?.()
    isTold = true
    await new Promise(done => setTimeout(done, pollMilliseconds))
  }
}

/**
 * Removes a lock with this content, unless another process has removed it first and made its own. Returns false if it
 * cannot be removed.
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
