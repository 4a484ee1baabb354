/** Makes sure that one process at a time writes to the folder of a run. */
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { open, readFile, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'

/** A folder that this process has to itself. */
export type Lock = {
  /**
   * To be called before each write. Throws UserError when the lock is gone: a process that was asleep or stopped for
   * long may wake to find that another one has taken over, and must not write then.
   */
  confirm(): Promise<void>
}

/** Milliseconds from one sign of life to the next, and how long none may come before a process counts as dead. */
export type Pulse = { readonly beat: number; readonly patience: number }

/** The patience is longer than any stretch for which compiling keeps the timer from firing. */
const usualPulse: Pulse = { beat: 2000, patience: 30_000 }

/** The content of a lock file: the process that has the lock. */
type Owner = {
  readonly host: string
  readonly pid: number
  /** When the process began. Undefined where the system does not tell. */
  readonly birth?: string | undefined
  /** Within which a process number means the same process, until the next start of the system. */
  readonly machine?: string | undefined
}

/**
 * Takes the lock of a folder until this process ends, however it ends. Throws UserError while another process has it,
 * or when the lock cannot be written. Of two that come at once neither may get it, but never both: each writes a file
 * of its own first, and looks for others then.
 *
 * On the same machine a process is known exactly, by its number and birth. Of one on another machine, or in another
 * container, there is only its file, which it touches at every beat: this waits to see whether that happens.
 * Clocks are not compared, since those of two machines differ.
 */
export async function lockFolder(folder: string, pulse: Pulse = usualPulse): Promise<Lock> {
  const name = `lock-${randomUUID()}`
  const path = join(folder, name)
  const self: Owner = {
    host: hostname(),
    pid: process.pid,
    birth: await birthOf(process.pid),
    machine: await machineName(),
  }
  const content = JSON.stringify(self)
  const release = () => rmSync(path, { force: true })
  try {
    process.on('exit', release)
    await writeFile(path, content, { flag: 'wx' })
    keepAlive(path, content, pulse.beat)
    for (const other of await readdir(folder, { withFileTypes: true })) {
      const isLock = other.isFile() && other.name.startsWith('lock-') && other.name !== name
      if (isLock) await removeDead(folder, other.name, self, path, pulse)
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
        `${folder} is not this process's any more: another one has taken over while this one was stopped or asleep, ` +
          'or the folder was removed. Nothing more is written.',
      )
    },
  }
}

/** Touches a lock file at every beat for as long as it is there; the timer holds no process. */
function keepAlive(path: string, content: string, beat: number): void {
  const touch = async () => {
    try {
      // Written rather than given a time, so that on a network drive the time is the server's. 'r+' makes no new file.
      const file = await open(path, 'r+')
      await file.writeFile(content).finally(() => file.close())
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return
    }
    keepAlive(path, content, beat)
  }
  setTimeout(() => void touch(), beat).unref()
}

/** Removes a lock file whose process is gone. Throws UserError if it lives. */
async function removeDead(
  folder: string,
  name: string,
  self: Owner,
  ownPath: string,
  pulse: Pulse,
): Promise<void> {
  const path = join(folder, name)
  const owner = ownerOf(name, await readFile(path, 'utf8').catch(() => ''), self)
  const who = owner
    ? `process ${owner.pid}${owner.host === self.host ? '' : ` on ${owner.host}`}`
    : 'another process'
  if ((await livesHere(owner, self)) ?? (await beats(path, ownPath, pulse, `${folder} was in use by ${who}`)))
    throw new UserError(
      `${folder} is in use by ${who}: wait for it to end, or delete ${path} if that is no run.`,
    )
  await rm(path, { force: true })
}

/** Whether a lock file is touched while this process watches it, for which it may have to wait. */
async function beats(path: string, ownPath: string, pulse: Pulse, notice: string): Promise<boolean> {
  // Both times are the file system's own.
  const touched = await touchedAt(path)
  if (touched === undefined) return false
  // No clock is wrong by so much, and no process busy for so long.
  if (Number((await touchedAt(ownPath)) ?? touched) - Number(touched) > 20 * pulse.patience) return false
  for (let waited = 0; waited < pulse.patience; waited += pulse.beat) {
    if (waited === 2 * pulse.beat) console.error(`${notice}, which may be gone: waiting for a sign of life.`)
    await sleep(pulse.beat)
    const now = await touchedAt(path)
    if (now !== touched) return now !== undefined
  }
  return false
}

/** When a file was written last; undefined if it is gone. Opening it makes a network drive ask its server. */
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

/** Whether a process of this machine lives; undefined where only its file can tell. */
async function livesHere(owner: Owner | undefined, self: Owner): Promise<boolean | undefined> {
  if (!owner || owner.machine === undefined || owner.machine !== self.machine) return undefined
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false // EPERM: it is there, and somebody else's
  }
  const birth = await birthOf(owner.pid)
  // Without a birth, the number may have gone to another process since.
  return birth === undefined || owner.birth === undefined ? undefined : birth === owner.birth
}

/** The process in a lock file; undefined where it does not say, as when it is being written. */
function ownerOf(name: string, content: string, self: Owner): Owner | undefined {
  // Earlier versions touch no file: lock-HOST-PID with the birth in it, whose process is looked for on the same host.
  const [, host, pid] = /^lock-(.+)-(\d+)$/.exec(name) ?? []
  if (host !== undefined && /^\d+$/.test(content)) {
    return {
      host,
      pid: Number(pid),
      birth: content,
      machine: host === self.host ? self.machine : undefined,
    }
  }
  try {
    const value: unknown = JSON.parse(content)
    return isOwner(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isOwner(value: unknown): value is Owner {
  if (typeof value !== 'object' || value === null || !('host' in value && 'pid' in value)) return false
  return typeof value.host === 'string' && typeof value.pid === 'number' && value.pid > 0
}

/**
 * A name for where a process number says which process it is: on Linux this start of the system and the namespace of
 * numbers (each container has its own, whatever host name it shares), elsewhere the host.
 */
async function machineName(): Promise<string | undefined> {
  if (process.platform !== 'linux') return hostname()
  try {
    const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8')
    return `${boot.trim()} ${await readlink('/proc/self/ns/pid')}`
  } catch {
    return undefined
  }
}

/** When a process began, in ticks since the start of the machine; of a dead one not yet buried none. Linux tells. */
async function birthOf(pid: number): Promise<string | undefined> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The name of the program, in brackets, may hold anything; fields are counted from behind it.
  const fields = status?.slice(status.lastIndexOf(')') + 2).split(' ')
  return fields?.[0] === 'Z' ? 'dead' : fields?.[19]
}
