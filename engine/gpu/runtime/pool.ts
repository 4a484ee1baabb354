/** Memory for the temporaries of all programs: they run one after the other, so each may have all of it. */
export class Pool {
  /** Goes up when pieces have been replaced: what was bound to them is to be bound anew. */
  generation = 0
  private readonly pieces: (GPUBuffer | undefined)[] = []
  private readonly reserve: (bytes: number) => Promise<GPUBuffer>

  constructor(reserve: (bytes: number) => Promise<GPUBuffer>) {
    this.reserve = reserve
  }

  piece(index: number): GPUBuffer {
    const piece = this.pieces[index]
    if (!piece) throw new Error('a program has grown no memory for itself')
    return piece
  }

  get bytes(): number {
    return this.pieces.reduce((sum, piece) => sum + (piece?.size ?? 0), 0)
  }

  /**
   * Makes the n-th piece at least as large as the n-th of these sizes. What the pieces hold is lost. When there is no
   * memory for one, those before it have grown, and it is none until the next time.
   */
  async grow(sizes: readonly number[]): Promise<void> {
    for (const [i, bytes] of sizes.entries()) {
      if ((this.pieces[i]?.size ?? 0) >= bytes) continue
      this.pieces[i]?.destroy()
      this.pieces[i] = undefined
      this.generation++
      this.pieces[i] = await this.reserve(bytes)
    }
  }
}
