import { MemoryError } from '../../runtime/memory-error.ts'

const pageBytes = 65536
/** 32-bit addresses reach this far. */
const maximumPages = 65536
const alignment = 64

const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`

/**
 * The memory that all threads share: variables and tables that stay, and one arena that the
 * temporaries of all programs use in turn, since one program runs at a time.
 */
export class SharedMemory {
  readonly memory = makeMemory()
  /** Addresses below are reserved, so that 0 is nobody's. */
  private end = alignment
  private free: { start: number; end: number }[] = []
  private arenaStart = 0
  private arenaEnd = 0

  /** Address of the arena; it may move when reserveArena is called. */
  get arena(): number {
    return this.arenaStart
  }

  /** Bytes that stay for good. Throws MemoryError when 4 GiB are used up. */
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

  /** Makes the arena at least this large. */
  reserveArena(bytes: number): void {
    if (bytes <= this.arenaEnd - this.arenaStart) return
    const stays = this.arenaStart > 0 && this.arenaEnd === this.end
    const start = stays ? this.arenaStart : this.end
    // First, since it may throw: then the arena is as it was.
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
        `${gibibytes(aligned)} of memory are needed and the CPU backend can address 4: take a smaller batch or network`,
      )
    }
    if (pages > 0) {
      try {
        this.memory.grow(pages)
      } catch {
        throw new MemoryError(
          `${gibibytes(aligned)} of memory are needed and the system does not give that much: take a smaller batch or network`,
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
      'the system does not give the 4 GiB of addresses that the CPU backend computes in: raise what limits them (ulimit -v)',
    )
  }
}
