/** How much memory and address space the system leaves to this process. */
import { readFileSync } from 'node:fs'
import { freemem, totalmem } from 'node:os'
import { join } from 'node:path'
import { MemoryError } from '../../runtime/memory-error.ts'

/**
 * Bytes of memory that can be allocated now: free memory of the machine, and in a container (a Linux cgroup) at most what
 * is left below its limit. A cgroup's usage includes cached files. The kernel evicts those that were not used recently, so
 * they count as free.
 */
export function availableBytes(): number {
  const constrained = process.constrainedMemory()
  if (!(constrained > 0 && constrained < totalmem())) return freemem()
  return Math.min(freemem(), constrained, process.availableMemory() + inactiveFileBytes())
}

/** Bytes of cached files that this process's cgroup has not used recently; 0 if unknown. */
function inactiveFileBytes(): number {
  const groups = readLines('/proc/self/cgroup')
  const [, unified] = /^0::(.*)$/m.exec(groups) ?? []
  const [, memory] = /^\d+:memory:(.*)$/m.exec(groups) ?? []
  // In a container, its own group is mounted as the root, whatever the group's path is outside.
  const folders = [
    ...(memory === undefined ? [] : [join('/sys/fs/cgroup/memory', memory), '/sys/fs/cgroup/memory']),
    ...(unified === undefined ? [] : [join('/sys/fs/cgroup', unified), '/sys/fs/cgroup']),
  ]
  const [status = ''] = folders.map(folder => readLines(join(folder, 'memory.stat'))).filter(Boolean)
  return Number(/^(?:total_)?inactive_file (\d+)$/m.exec(status)?.[1] ?? 0)
}

// V8 reserves 8 GiB of addresses for each WebAssembly memory, so that it need not check each access. There will be at most
// two more at a time: the shared memory, and that of the assembler or the probe.
const memoryAddresses = 2 * 8.6e9
/** Addresses that V8 reserves per thread, mostly for code. */
const threadAddresses = 0.95e9

/** Throws MemoryError if the address space (ulimit -v) is too small, since V8 would end the process. */
export function checkAddresses(threads: number): void {
  const limit = Number(/^Max address space +(\d+)/m.exec(readLines('/proc/self/limits'))?.[1] ?? Infinity)
  const taken = 1024 * Number(/^VmSize:\s+(\d+) kB$/m.exec(readLines('/proc/self/status'))?.[1] ?? 0)
  const needed = taken + memoryAddresses + threads * threadAddresses
  if (needed <= limit) return
  const gigabytes = (bytes: number) => `${Math.ceil(bytes / 1e9)} GB`
  throw new MemoryError(
    `the address space of this process is limited to ${gigabytes(limit)} (ulimit -v), and WebAssembly with ` +
      `${threads === 1 ? 'one thread' : `${threads} threads`} takes ${gigabytes(needed)} of addresses, though far less memory: raise the limit`,
  )
}

/** The text of a file under /proc or /sys; empty if there is none, as on other systems. */
function readLines(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
