/** Identifies a process, so that the reader of a lock file can tell whether its owner still runs. */
import { readFile, readlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { codeOf } from './errors.ts'
import { isRecord, parseJson } from './json.ts'

/** A process, as a lock file names it. */
export type ProcessIdentity = {
  readonly host: string
  readonly pid: number
  /** When the process began; undefined where the system does not tell. */
  readonly birth?: string | undefined
  /** Where this process number is unique until the next reboot; undefined where that is unknown. */
  readonly machine?: string | undefined
}

/** The identity of this process. */
export async function thisProcess(): Promise<ProcessIdentity> {
  return {
    host: hostname(),
    pid: process.pid,
    birth: await birthOf(process.pid),
    machine: await machineName(),
  }
}

/** The identity in a JSON text; undefined if the text has none, for example because it is being written. */
export function readIdentity(text: string): ProcessIdentity | undefined {
  const value = parseJson(text)
  if (!isRecord(value)) return undefined
  const { host, pid, birth, machine } = value
  if (typeof host !== 'string' || typeof pid !== 'number' || !(pid > 0)) return undefined
  return {
    host,
    pid,
    ...(typeof birth === 'string' && { birth }),
    ...(typeof machine === 'string' && { machine }),
  }
}

/** Whether a process of this machine still runs; undefined if it belongs to another machine, or that cannot be told. */
export async function stillRuns(
  owner: ProcessIdentity | undefined,
  self: ProcessIdentity,
): Promise<boolean | undefined> {
  if (!owner || owner.machine === undefined || owner.machine !== self.machine) return undefined
  if (!runsHere(owner.pid)) return false
  const birth = await birthOf(owner.pid)
  // Without the time of birth, another process may have the same number by now.
  return birth === undefined || owner.birth === undefined ? undefined : birth === owner.birth
}

/** Whether this machine has a process with this number. */
export function runsHere(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) !== 'ESRCH' // EPERM: it runs, and belongs to another user
  }
}

/**
 * A name for the scope in which a process number is unique: on Linux this boot of the system and the namespace of process
 * numbers (each container has its own, even with the same host name), elsewhere the host.
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

/** When a process began, in clock ticks since boot; "dead" for a zombie. Only Linux tells. */
async function birthOf(pid: number): Promise<string | undefined> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The program's name, in parentheses, may contain anything, so the fields are counted from its end.
  const fields = status?.slice(status.lastIndexOf(')') + 2).split(' ')
  return fields?.[0] === 'Z' ? 'dead' : fields?.[19]
}
