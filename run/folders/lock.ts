/** Ensures that only one process at a time writes to a run's folder. */
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { open, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import { type ProcessIdentity, readIdentity, stillRuns, thisProcess } from '../../common/process-identity.ts'

/** The lock of a folder, held by this process. */
export type Lock = {
  /**
   * Must be called before each write. Throws a UserError if the lock is gone: another process may have taken over while
   * this one was suspended, and then this one must not write.
   */
  confirm(): Promise<void>
}

/** Milliseconds between two touches of a lock file, and without a touch after which its process counts as dead. */
export type Heartbeat = { readonly interval: number; readonly timeout: number }

/** The timeout is longer than any time for which compiling keeps the timer from firing. */
const usualHeartbeat: Heartbeat = { interval: 2000, timeout: 30_000 }

/**
 * Takes the lock of a folder until this process ends, in whatever way. Throws a UserError while another process has the
 * lock, or if it cannot be written. If two processes try at once, neither may get the lock, but never both: each first
 * writes a file of its own and then looks for others.
 *
 * A process on the same machine is identified exactly, by its number and time of birth. For a process on another machine
 * or in another container there is only its file, which it touches at regular intervals, so this waits to see whether it
 * does. Clocks are not compared, since those of two machines differ.
 */
export async function lockFolder(folder: string, heartbeat: Heartbeat = usualHeartbeat): Promise<Lock> {
  const name = `lock-${randomUUID()}`
  const path = join(folder, name)
  const self = await thisProcess()
  const content = JSON.stringify(self)
  const release = () => rmSync(path, { force: true })
  try {
    process.on('exit', release)
    await writeFile(path, content, { flag: 'wx' })
    keepTouching(path, content, heartbeat.interval)
    for (const other of await readdir(folder, { withFileTypes: true })) {
      const isLock = other.isFile() && other.name.startsWith('lock-') && other.name !== name
      if (isLock) await removeDead(folder, other.name, self, path, heartbeat)
    }
  } catch (error) {
    process.off('exit', release)
    await rm(path, { force: true }).catch(() => {})
    if (error instanceof UserError) throw error
    throw new UserError(`${folder} cannot be locked for this run (${reasonOf(error)}).`)
  }

  return {
    async confirm() {
      if ((await touchedAt(path)) !== undefined) return
      throw new UserError(
        `${folder} is not this process's any more: another process took over while this one was suspended, or the ` +
          'folder was removed. Nothing more is written.',
      )
    },
  }
}

/** Touches a lock file at every interval for as long as it exists. The timer does not keep the process alive. */
function keepTouching(path: string, content: string, interval: number): void {
  const touch = async () => {
    try {
      // Writing to it, unlike setting its time, makes a network drive use the server's clock. 'r+' makes no new file.
      const file = await open(path, 'r+')
      await file.writeFile(content).finally(() => file.close())
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return
    }
    keepTouching(path, content, interval)
  }
  setTimeout(() => void touch(), interval).unref()
}

/** Removes a lock file whose process has ended. Throws a UserError if the process still runs. */
async function removeDead(
  folder: string,
  name: string,
  self: ProcessIdentity,
  ownPath: string,
  heartbeat: Heartbeat,
): Promise<void> {
  const path = join(folder, name)
  const owner = ownerOf(name, await readFile(path, 'utf8').catch(() => ''), self)
  const who = owner
    ? `process ${owner.pid}${owner.host === self.host ? '' : ` on ${owner.host}`}`
    : 'another process'
  const runs =
    (await stillRuns(owner, self)) ??
    (await isTouched(path, ownPath, heartbeat, `${folder} was in use by ${who}`))
  if (runs) {
    throw new UserError(
      `${folder} is in use by ${who}: wait for it to end, or delete ${path} if that is not a run.`,
    )
  }
  await rm(path, { force: true })
}

/** Watches a lock file, for up to the timeout, and tells whether it is touched. */
async function isTouched(
  path: string,
  ownPath: string,
  { interval, timeout }: Heartbeat,
  notice: string,
): Promise<boolean> {
  // Both times come from the file system's clock.
  const touched = await touchedAt(path)
  if (touched === undefined) return false
  // No clock is that wrong, and no process is busy for that long.
  if (Number((await touchedAt(ownPath)) ?? touched) - Number(touched) > 20 * timeout) return false
  for (let waited = 0; waited < timeout; waited += interval) {
    if (waited === 2 * interval) console.error(`${notice}, which may be gone: waiting for a sign of life.`)
    await sleep(interval)
    const now = await touchedAt(path)
    if (now !== touched) return now !== undefined
  }
  return false
}

/** When a file was last written; undefined if it is gone. Opening it makes a network drive ask its server. */
async function touchedAt(path: string): Promise<number | undefined> {
  try {
    const file = await open(path)
    return await file
      .stat()
      .then(({ mtimeMs }) => mtimeMs)
      .finally(() => file.close())
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/** The process that a lock file names; undefined if it names none, for example because it is being written. */
function ownerOf(name: string, content: string, self: ProcessIdentity): ProcessIdentity | undefined {
  // Earlier versions named the file lock-HOST-PID, with the time of birth in it, and did not touch it.
  const [, host, pid] = /^lock-(.+)-(\d+)$/.exec(name) ?? []
  if (host !== undefined && /^\d+$/.test(content)) {
    const machine = host === self.host ? self.machine : undefined
    return { host, pid: Number(pid), birth: content, machine }
  }
  return readIdentity(content)
}
