// Memory for temporaries, which all programs share.
/** Programs run one after the other, so each may use all of the pool. */
export class Pool {
  /** Goes up when a piece is replaced. Kernels have to be bound to the new one. */
  generation = 0
  private readonly pieces: (GPUBuffer | undefined)[] = []
  private readonly reserve: (bytes: number) => Promise<GPUBuffer>

  constructor(reserve: (bytes: number) => Promise<GPUBuffer>) {
    this.reserve = reserve
  }

  piece(index: number): GPUBuffer {
    const piece = this.pieces[index]
    if (!piece) throw new Error(`there is no piece ${index} of memory: call grow() first`)
    return piece
  }

  get bytes(): number {
    return this.pieces.reduce((sum, piece) => sum + (piece?.size ?? 0), 0)
  }

  /**
   * Makes the n-th piece at least as large as the n-th size. A piece that grows loses its contents. If reserving a piece
   * fails, those before it have grown, and there is no such piece until the next call.
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
