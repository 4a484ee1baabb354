/** What memory and what addresses the system leaves to this process. */
import { readFileSync } from 'node:fs'
import { freemem, totalmem } from 'node:os'
import { join } from 'node:path'
import { MemoryError } from '../../runtime/memory-error.ts'

/**
 * Bytes of memory that can be taken now: what is free on the machine, and in a container (a cgroup of Linux) what is
 * left below its limit. There the kernel counts cached files as well; it gives those up first that were not used of
 * late, so they count as free.
 */
export function availableBytes(): number {
  const constrained = process.constrainedMemory()
  if (!(constrained > 0 && constrained < totalmem())) return freemem()
  return Math.min(freemem(), constrained, process.availableMemory() + inactiveFileBytes())
}

/** Bytes of files that this process's cgroup has in memory and has not used of late; 0 where nothing tells. */
function inactiveFileBytes(): number {
  const groups = readLines('/proc/self/cgroup')
  const [, unified] = /^0::(.*)$/m.exec(groups) ?? []
  const [, memory] = /^\d+:memory:(.*)$/m.exec(groups) ?? []
  // In a container its own group is the root of what is mounted, whatever its path is outside.
  const folders = [
    ...(memory === undefined ? [] : [join('/sys/fs/cgroup/memory', memory), '/sys/fs/cgroup/memory']),
    ...(unified === undefined ? [] : [join('/sys/fs/cgroup', unified), '/sys/fs/cgroup']),
  ]
  const [status = ''] = folders.map(folder => readLines(join(folder, 'memory.stat'))).filter(Boolean)
  return Number(/^(?:total_)?inactive_file (\d+)$/m.exec(status)?.[1] ?? 0)
}

// WebAssembly memory has 8 GiB of addresses around it, so that V8 need not check each access. Two more come to be at a
// time: that of all threads, and one of the assembler or of the probe.
const memoryAddresses = 2 * 8.6e9
/** Addresses that V8 reserves for a thread, most of them for code. */
const threadAddresses = 0.95e9

/** Throws MemoryError where the process may not have the addresses that it takes (ulimit -v): V8 would end it. */
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

/** A file of Linux that says something about the process; nothing elsewhere. */
function readLines(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
