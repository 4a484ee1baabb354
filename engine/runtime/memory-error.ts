/** The error for a lack of memory. */

/** The machine or the GPU cannot provide as much memory as was requested. */
export class MemoryError extends Error {
  override name = 'MemoryError'
}
