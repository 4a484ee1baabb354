/** What a tokenizer is, and the tokenizer whose tokens are bytes. */

/** Token ids in memory, with one byte per token if the vocabulary allows it. */
export type TokenArray = Uint8Array | Uint16Array

/**
 * A text as token ids. Arrays in memory are one kind; token-windows.ts reads a text that is too long for memory from its
 * file.
 */
export type Tokens = Iterable<number> & {
  readonly length: number
  /** A copy of the tokens from `start` up to `end`. */
  slice(start: number, end: number): TokenArray
}

/** Converts text to token ids and back. */
export type Tokenizer = {
  name: string
  vocabularySize: number
  encode(text: string): TokenArray
  /** A function that decodes tokens as they arrive. It returns the text that they complete. */
  decoder(): (tokens: Iterable<number>) => string
}

/** One token for each byte of the UTF-8 text. It needs no vocabulary file, and can encode every text. */
export const bytes: Tokenizer = {
  name: 'bytes',
  vocabularySize: 256,
  encode: text => new TextEncoder().encode(text),
  decoder() {
    // It holds back the first bytes of a character until the last one arrives. Invalid bytes become U+FFFD.
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return tokens => decoder.decode(Uint8Array.from(tokens), { stream: true })
  },
}
