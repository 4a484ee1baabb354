/** Memory for the temporaries of all programs: they run one after the other, so each may have all of it. */
export class Pool {
  /** Goes up when pieces have been replaced: what was bound to them is to be bound anew. */
  generation = 0
  private pieces: GPUBuffer[] = []
  private readonly reserve: (bytes: number) => Promise<GPUBuffer>

  constructor(reserve: (bytes: number) => Promise<GPUBuffer>) {
    this.reserve = reserve
  }

  piece(index: number): GPUBuffer {
    return this.pieces[index]
  }

  /** Makes the n-th piece at least as large as the n-th of these sizes. What the pieces hold is lost. */
  async grow(sizes: readonly number[]): Promise<void> {
    const pieces = [...this.pieces]
    for (const [i, bytes] of sizes.entries()) {
      if (pieces[i]?.size >= bytes) continue
      pieces[i]?.destroy()
      pieces[i] = await this.reserve(bytes)
      this.generation++
    }
    this.pieces = pieces
  }
}
