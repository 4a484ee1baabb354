/** Names for what is written beside its place first, and the removal of what killed processes left of it. */
import { randomUUID } from 'node:crypto'
import { lstat, readdir, rm } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { codeOf } from './errors.ts'

const host = hostname().replaceAll(/[^\w-]/g, '_')
const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
/** What besideName makes, or a lock of in-turn.ts. The process is missing in names that earlier versions made. */
const isOurs = new RegExp(`(?:\\.([\\w-]+)-(\\d+))?[.-]${uuid}$|\\.lock$`)

const minute = 60_000
const hour = 60 * minute

/** A name beside a path that no other process uses. It says whose it is. */
export function besideName(path: string): string {
  return `${path}.${host}-${process.pid}.${randomUUID()}`
}

/**
 * Removes from a folder what besideName has named and nobody works on: of a process of this machine that has ended, once
 * it is a minute old (another container may have the same name and other processes), and of any process once nothing
 * was written to it for an hour.
 */
export async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names) {
    const [isOne, owner, pid] = isOurs.exec(name) ?? []
    if (isOne === undefined) continue
    const path = join(folder, name)
    const found = await lstat(path).catch(() => undefined)
    if (!found) continue
    const age = Date.now() - found.mtimeMs
    const isAbandoned = owner === host && pid !== undefined && !runsHere(Number(pid))
    if (age > (isAbandoned ? minute : hour)) await rm(path, { recursive: true, force: true }).catch(() => {})
  }
}

/** Whether this machine has a process of this number. */
export function runsHere(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) !== 'ESRCH' // EPERM: it is there, and somebody else's
  }
}
