/** A text to train on, before it is tokenized. */
import type { Tokens } from '../tokens/tokenizer.ts'
import { readPieces, type LocalFile } from './local-file.ts'

/** A text as UTF-8 bytes, in pieces that may be cut anywhere. It never has to be in memory as a whole. */
export type Text = {
  /** About how many bytes it has, for the progress line only. */
  size: number
  pieces(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  /** Where its bytes lie in a file, if they are contiguous there: then any of them can be read directly. */
  place?: { path: string; start: number; end: number }
}

/** The two parts of a corpus: what the network is trained on, and what it is only measured on. */
export type Split = 'train' | 'validation'

type About = {
  /** What the run's header calls it. */
  name: string
  /** Where it lies; unique to each text. */
  place: string
  /** Identifies the content: a hash of it, or the files that hold it, which are then hashed. */
  version: string | readonly LocalFile[]
}

/** A text that is yet to be tokenized. */
export type TextSource = About & Record<Split, Text>

/** Token ids that somebody else has made. */
export type TokenSource = About & { tokens: Record<Split, Tokens> }

export type Source = TextSource | TokenSource

/** A text that is in memory already. */
export function textOf(bytes: Uint8Array): Text {
  return { size: bytes.length, pieces: () => [bytes] }
}

/** The bytes of a file from `start` to `end` as a text. */
export function fileText({ path }: LocalFile, start: number, end: number): Text {
  return { size: end - start, pieces: () => readPieces(path, start, end), place: { path, start, end } }
}

/** The whole text; undefined if it has more than `limit` bytes. */
export async function readShort(text: Text, limit: number): Promise<Uint8Array | undefined> {
  const pieces: Uint8Array[] = []
  let length = 0
  for await (const piece of text.pieces()) {
    pieces.push(piece)
    length += piece.length
    if (length > limit) return undefined
  }
  return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)
}
