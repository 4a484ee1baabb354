/** Too much memory was asked for. */
export class MemoryError extends Error {
  override name = 'MemoryError'
}
