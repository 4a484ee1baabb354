/** Tokenizes a text on all cores. */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { UserError } from '../../common/errors.ts'
import { chunksOf } from './chunks.ts'
import type { Text } from '../sources/text.ts'

const chunkSize = 2 ** 20

/** A worker's answer to the bytes of a chunk. */
export type Answer = { tokens: Uint16Array<ArrayBuffer> } | { refusal: string } | { error: unknown }

export type TokenizeOptions = {
  threads?: number
  chunkSize?: number
  /** Called with the number of bytes of text that are done. */
  progress?: (bytes: number) => void
}

/**
 * The GPT-2 tokens of a text, in order, computed on all cores. Only the chunks in progress are in memory: the text is read
 * no faster than its tokens are consumed.
 */
export async function* tokenize(text: Text, options: TokenizeOptions = {}): AsyncGenerator<Uint16Array> {
  const chunk = options.chunkSize ?? chunkSize
  const useful = Math.max(1, Math.ceil(text.size / chunk))
  const encoders = Array.from(
    { length: Math.min(options.threads ?? availableParallelism(), useful) },
    startEncoder,
  )
  const inProgress: Promise<Uint16Array>[] = []
  let [read, done] = [0, 0]
  const sizes: number[] = []
  const next = async (): Promise<Uint16Array> => {
    const tokens = await inProgress.shift()!
    done += sizes.shift()!
    options.progress?.(done)
    return tokens
  }
  try {
    for await (const bytes of chunksOf(text, chunk)) {
      sizes.push(bytes.length)
      const tokens = encoders[read++ % encoders.length]!.encode(bytes)
      tokens.catch(() => {}) // it is awaited below, unless another chunk fails first
      inProgress.push(tokens)
      if (inProgress.length > 2 * encoders.length) yield await next()
    }
    while (inProgress.length > 0) yield await next()
  } finally {
    await Promise.all(encoders.map(encoder => encoder.stop()))
  }
}

/** Starts a thread that encodes one chunk after another. */
function startEncoder() {
  const worker = new Worker(new URL('./tokenize-worker.ts', import.meta.url), { execArgv: [] })
  const waiting: PromiseWithResolvers<Uint16Array>[] = []
  worker.on('message', (answer: Answer) => {
    const { resolve, reject } = waiting.shift()!
    if ('tokens' in answer) resolve(answer.tokens)
    else reject('refusal' in answer ? new UserError(answer.refusal) : answer.error)
  })
  let failure: { error: unknown } | undefined
  worker.on('error', (error: unknown) => {
    failure = { error }
    for (const { reject } of waiting) reject(error)
  })
  return {
    encode(bytes: Uint8Array<ArrayBuffer>): Promise<Uint16Array> {
      if (failure) throw failure.error
      const answer = Promise.withResolvers<Uint16Array>()
      waiting.push(answer)
      worker.postMessage(bytes, [bytes.buffer])
      return answer.promise
    },
    stop: () => worker.terminate(),
  }
}
