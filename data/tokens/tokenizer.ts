/** Token ids in memory: a byte each where the vocabulary allows it. */
export type TokenArray = Uint8Array | Uint16Array

/**
 * A text as token ids, of which stretches are read. An array in memory is one; a text that is too long for memory
 * is read from its file (token-windows.ts).
 */
export type Tokens = Iterable<number> & {
  readonly length: number
  /** The tokens from `start` up to `end`, in an array of their own. */
  slice(start: number, end: number): TokenArray
}

/** How text becomes token ids, and back. */
export type Tokenizer = {
  name: string
  vocabularySize: number
  encode(text: string): TokenArray
  /** A function that turns token ids, as they come, into the text that they complete. */
  decoder(): (tokens: Iterable<number>) => string
}

/** One token for each byte of the UTF-8 text: nothing to learn, nothing to download, never at a loss. */
export const bytes: Tokenizer = {
  name: 'bytes',
  vocabularySize: 256,
  encode: text => new TextEncoder().encode(text),
  decoder() {
    // Holds back the first bytes of a character until its last one comes; wrong ones become U+FFFD.
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return tokens => decoder.decode(Uint8Array.from(tokens), { stream: true })
  },
}
