import { readFile, readdir, rm } from 'node:fs/promises'
import { rmSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { UserError, codeOf } from './errors.ts'
import { writeWhole } from './whole-file.ts'

/**
 * Makes a folder this process's own until it ends, however it ends. Each process has a file there, with its number
 * in the name and when it began as content; the file of one that is gone counts for nothing. Throws UserError while
 * another process has the folder. Of two that come at once neither may get it, but never both.
 */
export async function lockFolder(folder: string): Promise<void> {
  const host = hostname()
  const own = `lock-${host}-${process.pid}`
  await writeWhole(join(folder, own), (await birthOf(process.pid)) ?? '')
  const release = () => rmSync(join(folder, own), { force: true })
  process.on('exit', release)
  for (const name of await readdir(folder)) {
    const [, otherHost, pid] = /^lock-(.+)-(\d+)$/.exec(name) ?? []
    if (pid === undefined || name === own) continue
    const path = join(folder, name)
    const isElsewhere = otherHost !== host
    if (!isElsewhere && !(await lives(Number(pid), await readFile(path, 'utf8').catch(() => '')))) {
      await rm(path, { force: true })
      continue
    }
    process.off('exit', release)
    release()
    const where = isElsewhere ? ` on ${otherHost}` : ''
    throw new UserError(
      `${folder} is in use by process ${pid}${where}: wait for it to end, or delete ${path} if that is no run.`,
    )
  }
}

/** Whether a process runs that began then. Its number may have gone to another since. */
async function lives(pid: number, birth: string): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false // EPERM: it is there, and somebody else's
  }
  const found = await birthOf(pid)
  return found === undefined || found === birth
}

/** When a process began, in ticks since the start of the machine; of a dead one not yet buried none. Linux tells. */
async function birthOf(pid: number): Promise<string | undefined> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  // The name of the program, in brackets, may hold anything; fields are counted from behind it.
  const fields = status?.slice(status.lastIndexOf(')') + 2).split(' ')
  return fields?.[0] === 'Z' ? 'dead' : fields?.[19]
}
