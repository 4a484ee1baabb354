/** GPT-2's tokenizer. */
import { BytePairEncodingCore } from 'gpt-tokenizer/BytePairEncodingCore'
import ranks from 'gpt-tokenizer/bpeRanks/r50k_base'
import { UserError } from '../../common/errors.ts'
import type { Tokenizer } from './tokenizer.ts'

// GPT-2's regular expression, with White_Space in place of \s: JavaScript's \s includes U+FEFF but not U+0085, and the
// original's the other way round.
const words =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu

const endOfText = 50256
const longestWord = 20_000 // each merge scans the whole word, so the time is quadratic in its length
const rememberedWords = 2 ** 18
const longestRemembered = 100 // longer words rarely occur twice

const bpe = new BytePairEncodingCore({
  bytePairRankDecoder: ranks,
  specialTokensEncoder: new Map([['<|endoftext|>', endOfText]]),
  tokenSplitRegex: words,
  mergeCacheSize: 0,
})
/** The tokens of words seen before. Most of a text consists of few words, so most lookups succeed. */
const known = new Map<string, readonly number[]>()

/** GPT-2's byte-pair encoding. <|endoftext|> in a text is encoded as ordinary text, not as the special token. */
export const gpt2 = {
  name: 'gpt2',
  vocabularySize: 50257,
  encode(text: string): Uint16Array<ArrayBuffer> {
    let tokens = new Uint16Array(text.length + 16)
    let length = 0
    for (const word of text.match(words) ?? []) {
      const encoded = encodeWord(word)
      if (length + encoded.length > tokens.length) {
        const longer = new Uint16Array(2 * tokens.length + encoded.length)
        longer.set(tokens)
        tokens = longer
      }
      for (const token of encoded) tokens[length++] = token
    }
    return tokens.slice(0, length)
  },
  decoder() {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return (tokens: Iterable<number>) =>
      Array.from(tokens, token => decoder.decode(tokenBytes(token), { stream: true })).join('')
  },
} satisfies Tokenizer

/** The number of bytes of text that GPT-2 tokens stand for. */
export function countBytes(tokens: Iterable<number>): number {
  const lengths = Uint16Array.from({ length: gpt2.vocabularySize }, (_, token) => tokenBytes(token).length)
  let bytes = 0
  for (const token of tokens) bytes += lengths[token]!
  return bytes
}

function encodeWord(word: string): readonly number[] {
  const before = known.get(word)
  if (before) return before
  if (word.length > longestWord) {
    const length = word.length.toLocaleString('en')
    const what = word.trim() ? `${length} characters without a space between` : `${length} spaces in a row`
    throw new UserError(
      `The text has ${what}, which GPT-2's tokenizer would take hours for: is it text at all? ` +
        '--tokenizer bytes takes it.',
    )
  }
  const encoded = bpe.encodeNative(word)
  if (known.size < rememberedWords && word.length <= longestRemembered) known.set(copyOf(word), encoded)
  return encoded
}

/** A copy of a word. A match keeps its whole text in memory for as long as the match itself is remembered. */
function copyOf(word: string): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(new TextEncoder().encode(word))
}

function tokenBytes(token: number): Uint8Array {
  const rank = token === endOfText ? '<|endoftext|>' : ranks[token]
  if (rank === undefined) throw new RangeError(`${token} is not a token of GPT-2`)
  return typeof rank === 'string' ? new TextEncoder().encode(rank) : Uint8Array.from(rank)
}
