/** Names for files that are being written, and removal of those that killed processes left behind. */
import { randomUUID } from 'node:crypto'
import { lstat, readdir, rm } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { runsHere } from './process-identity.ts'

const host = hostname().replaceAll(/[^\w-]/g, '_')
const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
/** What temporaryName makes, with the host and the process. Earlier versions left out these two, or the ending. */
const temporary = new RegExp(`(?:\\.([\\w-]+)-(\\d+))?[.-]${uuid}(?:\\.part)?$`)

const minute = 60_000
const hour = 60 * minute

/** A name next to `path` that no other process uses, with this machine and process in it. */
export function temporaryName(path: string): string {
  return `${path}.${host}-${process.pid}.${randomUUID()}.part`
}

/** Whether a name is a temporary one. */
export const isTemporary = (name: string): boolean => temporary.test(name)

export type Leftovers = {
  /** Which names may be removed. */
  readonly isWanted?: (name: string) => boolean
  /** Milliseconds since the last write after which a file is removed; see removeLeftovers for the default. */
  readonly age?: number
}

/**
 * Removes the temporary files in a folder that no process writes to any more. By default these are the files of a process
 * of this machine that has ended, once they are a minute old (another container may share the host name but not the
 * process numbers), and those of any process after an hour without a write. What cannot be removed stays.
 */
export async function removeLeftovers(
  folder: string,
  { isWanted = isTemporary, age }: Leftovers = {},
): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names.filter(isWanted)) {
    const path = join(folder, name)
    const found = await lstat(path).catch(() => undefined)
    if (!found) continue
    const [, owner, pid] = temporary.exec(name) ?? []
    const hasEnded = owner === host && pid !== undefined && !runsHere(Number(pid))
    if (Date.now() - found.mtimeMs < (age ?? (hasEnded ? minute : hour))) continue
    await rm(path, { recursive: true, force: true }).catch(() => {})
  }
}
