import { readPieces, type LocalFile } from './local-file.ts'

/** A text that need never be in memory as a whole: its UTF-8 bytes, in pieces cut anywhere. */
export type Text = {
  /** About how many bytes it has: for progress alone. */
  size: number
  pieces(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  /** Where its bytes lie one after another in a file, if they do: then any of them can be read there. */
  place?: { path: string; start: number; end: number }
}

/** What a corpus is made of, before it is tokenized. */
export type Source = {
  /** What it is called in the run's header. */
  name: string
  /** Where it lies; no two texts have the same. */
  place: string
  /** Stands for what the text is: a hash of it, or the files that it is in, whose contents decide. */
  version: string | readonly LocalFile[]
  train: Text
  validation: Text
}

/** A text that is in memory already. */
export function textOf(bytes: Uint8Array): Text {
  return { size: bytes.length, pieces: () => [bytes] }
}

/** A text that is the bytes of a file from `start` to `end`. */
export function fileText({ path }: LocalFile, start: number, end: number): Text {
  return { size: end - start, pieces: () => readPieces(path, start, end), place: { path, start, end } }
}

/** The whole text, unless it has more than `limit` bytes. */
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
