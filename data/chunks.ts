import type { Text } from './text.ts'

const isWhite = /\p{White_Space}/u
const [lineFeed, space] = [0x0a, 0x20]

/**
 * A text in chunks of about `size` bytes, cut only where a space or a line feed follows what is no white
 * space. GPT-2's expression ends a word there whatever comes before or after, so that the tokens of the chunks
 * are the tokens of the whole. (No match of it goes from another character on to white space, and the one that
 * looks ahead looks only from white space.) A text without such a place stays in one chunk.
 */
export async function* chunksOf(text: Text, size: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let rest: Uint8Array[] = []
  let length = 0
  for await (const piece of text.pieces()) {
    rest.push(piece)
    length += piece.length
    if (length < size) continue
    let whole = joined(rest, length)
    let cut = 0
    while (whole.length >= size && (cut = findCut(whole, size)) > 0) {
      yield new Uint8Array(whole.subarray(0, cut)) // slice of a Buffer is no copy
      whole = whole.subarray(cut)
    }
    rest = [whole]
    length = whole.length
  }
  if (length > 0) yield new Uint8Array(joined(rest, length))
}

/** The last place to cut in the first `size` bytes, else the first one after them; 0 if there is none. */
function findCut(bytes: Uint8Array, size: number): number {
  for (let i = Math.min(size, bytes.length - 1); i > 0; i--) if (isCut(bytes, i)) return i
  for (let i = size + 1; i < bytes.length; i++) if (isCut(bytes, i)) return i
  return 0
}

function isCut(bytes: Uint8Array, i: number): boolean {
  if (bytes[i] !== lineFeed && bytes[i] !== space) return false
  const before = bytes[i - 1]!
  if (before < 0x80) return before > space && before !== 0x7f
  // The whole character before: at most four bytes, the first of which is no continuation byte.
  const character = bytes.subarray(Math.max(0, i - 4), i)
  const start = character.findLastIndex(byte => (byte & 0xc0) !== 0x80)
  return start >= 0 && !isWhite.test(new TextDecoder().decode(character.subarray(start)))
}

function joined(pieces: readonly Uint8Array[], length: number): Uint8Array {
  if (pieces.length === 1) return pieces[0]!
  const whole = new Uint8Array(length)
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  return whole
}
