import type { LocalFile } from './local-file.ts'

/** A text that need never be in memory as a whole: its UTF-8 bytes, in pieces cut anywhere. */
export type Text = {
  /** About how many bytes it has: for progress alone. */
  size: number
  pieces(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>
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

/** The whole text, where it has to be in memory after all. */
export async function readWhole(text: Text): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  for await (const piece of text.pieces()) pieces.push(piece)
  if (pieces.length === 1) return pieces[0]!
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let length = 0
  for (const piece of pieces) {
    whole.set(piece, length)
    length += piece.length
  }
  return whole
}
