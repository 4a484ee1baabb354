/** Token ids, one after another: a byte each where the vocabulary allows it. */
export type Tokens = Uint8Array | Uint16Array

/** How text becomes token ids, and back. */
export type Tokenizer = {
  name: string
  vocabularySize: number
  encode(text: string): Tokens
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
