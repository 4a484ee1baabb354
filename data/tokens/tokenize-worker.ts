/** A worker thread of tokenize.ts: it receives bytes of text and answers with their GPT-2 tokens. */
import { parentPort } from 'node:worker_threads'
import { codeOf, UserError } from '../../common/errors.ts'
import { gpt2 } from './gpt2.ts'
import type { Answer } from './tokenize.ts'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

parentPort?.on('message', (bytes: Uint8Array) => {
  const answer = encode(bytes)
  parentPort?.postMessage(answer, 'tokens' in answer ? [answer.tokens.buffer] : [])
})

function encode(bytes: Uint8Array): Answer {
  try {
    return { tokens: gpt2.encode(decoder.decode(bytes)) }
  } catch (error) {
    if (error instanceof UserError) return { refusal: error.message }
    if (codeOf(error) !== 'ERR_ENCODING_INVALID_ENCODED_DATA') return { error }
    const advice = 'convert it to UTF-8 first, or train on its bytes with --tokenizer bytes.'
    return { refusal: `The text is not UTF-8, which GPT-2's tokenizer takes: ${advice}` }
  }
}
