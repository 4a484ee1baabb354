/** One matrix product, [m, k] x [k, n]. */
export interface Matmul {
  readonly kind: 'matmul'
  readonly m: number
  readonly n: number
  readonly k: number
}

/** One training step of the latent network: forward, backward and AdamW on all parameters. */
export interface Step {
  readonly kind: 'step'
  readonly dim: number
  readonly blocks: number
  readonly vocabulary: number
  readonly length: number
  readonly batch: number
  /** How many steps a process times, of which the fastest counts. */
  readonly steps: number
}

/** A text of so many tokens from the latent network, one token after the other. */
export interface Sample {
  readonly kind: 'sample'
  readonly dim: number
  readonly blocks: number
  readonly vocabulary: number
  /** How many tokens it remembers. */
  readonly length: number
  readonly tokens: number
}

/** What is measured. */
export type Work = Matmul | Step | Sample

/** Everything that the table has a row for. */
export const works: readonly Work[] = [
  { kind: 'matmul', m: 1024, n: 1024, k: 1024 },
  // From the networks below: expand at dim 256, project at dim 128, the gradient of project at dim 384.
  { kind: 'matmul', m: 4096, n: 1088, k: 256 },
  { kind: 'matmul', m: 4096, n: 128, k: 256 },
  { kind: 'matmul', m: 384, n: 768, k: 2048 },
  { kind: 'step', dim: 128, blocks: 4, vocabulary: 256, length: 256, batch: 16, steps: 10 },
  { kind: 'step', dim: 256, blocks: 6, vocabulary: 256, length: 256, batch: 16, steps: 6 },
  { kind: 'step', dim: 384, blocks: 8, vocabulary: 50304, length: 256, batch: 8, steps: 3 },
  // The 46 million parameters of hlb-gpt 0.4.
  { kind: 'sample', dim: 384, blocks: 8, vocabulary: 50304, length: 1024, tokens: 400 },
]

/** And on a GPU: products as large as it likes, and the step of hlb-gpt's network of 46 million parameters. */
export const gpuWorks: readonly Work[] = [
  { kind: 'matmul', m: 4096, n: 4096, k: 4096 },
  { kind: 'matmul', m: 8192, n: 8192, k: 8192 },
  { kind: 'step', dim: 384, blocks: 8, vocabulary: 50304, length: 1024, batch: 56, steps: 6 },
]

/** The work's name in the table, and what --only looks in. */
export function nameOf(work: Work): string {
  if (work.kind === 'matmul') return `matmul ${work.m} ${work.n} ${work.k}`
  if (work.kind === 'sample')
    return `sample ${work.dim} ${work.blocks} ${work.vocabulary} ${work.length} ${work.tokens}`
  return `latent ${work.dim} ${work.blocks} ${work.vocabulary} ${work.length} ${work.batch}`
}

/** The inverse of nameOf, with how many steps to time: what the processes are told. */
export function parseWork(words: readonly string[]): Work {
  const [name, ...rest] = words
  const numbers = rest.map(Number)
  if (!numbers.every(value => Number.isInteger(value) && value > 0)) {
    throw new Error(`Not a work: ${words.join(' ')}`)
  }
  if (name === 'matmul' && numbers.length === 3) {
    const [m, n, k] = numbers
    return { kind: 'matmul', m, n, k }
  }
  if (name === 'latent' && (numbers.length === 5 || numbers.length === 6)) {
    const [dim, blocks, vocabulary, length, batch, steps = 8] = numbers
    return { kind: 'step', dim, blocks, vocabulary, length, batch, steps }
  }
  if (name === 'sample' && numbers.length === 5) {
    const [dim, blocks, vocabulary, length, tokens] = numbers
    return { kind: 'sample', dim, blocks, vocabulary, length, tokens }
  }
  throw new Error(`Not a work: ${words.join(' ')}`)
}

/**
 * Floating-point operations, counted once for all rivals, whatever they really do: for a step 6 a
 * matmul weight a token, plus the causal half of the attention's products.
 */
export function flopsOf(work: Matmul | Step): number {
  if (work.kind === 'matmul') return 2 * work.m * work.n * work.k
  const { dim, blocks, vocabulary, length, batch } = work
  const keyDim = Math.floor(dim / 8)
  const weights = blocks * (dim * (2 * keyDim + 4 * dim) + 2 * dim * dim) + vocabulary * dim
  const attention = blocks * 3 * batch * length * length * (keyDim + dim)
  return 6 * weights * tokensOf(work) + attention
}

/**
 * Bytes of the parameters that a token is made from, each read once: the blocks, the norms, the output layer,
 * and of the embedding one row.
 */
export function bytesOf({ dim, blocks, vocabulary }: Sample): number {
  const keyDim = Math.floor(dim / 8)
  const block = dim * (2 * keyDim + 4 * dim) + 2 * dim * dim + 2 * dim + 1
  return 4 * (blocks * block + 2 * dim + vocabulary * dim + dim)
}

/** Tokens in a step. */
export const tokensOf = (work: Step): number => work.batch * work.length
