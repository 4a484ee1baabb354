/** The memory that all threads of the CPU backend share. */
import { MemoryError } from '../../runtime/memory-error.ts'

const pageBytes = 65536
/** The most that 32-bit addresses can reach. */
const maximumPages = 65536
const alignment = 64

const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`

/**
 * The memory that all threads share: permanent variables and tables, and one arena for the temporaries of all programs,
 * since only one program runs at a time.
 */
export class SharedMemory {
  readonly memory = makeMemory()
  /** The first unused address. Address 0 is never allocated. */
  private end = alignment
  private free: { start: number; end: number }[] = []
  private arenaStart = 0
  private arenaEnd = 0

  /** Address of the arena. reserveArena may move it. */
  get arena(): number {
    return this.arenaStart
  }

  /** Allocates bytes permanently, and returns their address. Throws MemoryError when 4 GiB are used up. */
  allocate(bytes: number): number {
    const size = Math.ceil(bytes / alignment) * alignment
    const hole = this.free.find(({ start, end }) => end - start >= size)
    if (hole) {
      const { start } = hole
      this.free = this.free.flatMap(other =>
        other !== hole ? [other] : start + size < hole.end ? [{ start: start + size, end: hole.end }] : [],
      )
      return start
    }
    const start = this.end
    this.growTo(start + size)
    return start
  }

  /** Makes the arena at least this large. Throws MemoryError when 4 GiB are used up. */
  reserveArena(bytes: number): void {
    if (bytes <= this.arenaEnd - this.arenaStart) return
    const stays = this.arenaStart > 0 && this.arenaEnd === this.end
    const start = stays ? this.arenaStart : this.end
    // First, since it may throw. The arena is unchanged then.
    this.growTo(start + bytes)
    if (!stays && this.arenaStart > 0) this.free.push({ start: this.arenaStart, end: this.arenaEnd })
    this.arenaStart = start
    this.arenaEnd = this.end
  }

  floats(address: number, length: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, length)
  }

  integers(address: number, length: number): Int32Array {
    return new Int32Array(this.memory.buffer, address, length)
  }

  private growTo(end: number): void {
    const aligned = Math.ceil(end / alignment) * alignment
    const pages = Math.ceil(aligned / pageBytes) - this.memory.buffer.byteLength / pageBytes
    if (aligned > maximumPages * pageBytes) {
      throw new MemoryError(
        `${gibibytes(aligned)} of memory are needed, but the CPU backend can address only 4 GiB: use a smaller batch or network`,
      )
    }
    if (pages > 0) {
      try {
        this.memory.grow(pages)
      } catch {
        throw new MemoryError(
          `${gibibytes(aligned)} of memory are needed, but the system does not have that much: use a smaller batch or network`,
        )
      }
    }
    this.end = aligned
  }
}

function makeMemory(): WebAssembly.Memory {
  try {
    return new WebAssembly.Memory({ initial: 16, maximum: maximumPages, shared: true })
  } catch {
    throw new MemoryError(
      'the CPU backend needs 4 GiB of address space, but the system does not allow that much: raise the limit (ulimit -v)',
    )
  }
}
