/** Cuts a text into chunks that can be tokenized independently. */
import { UserError } from '../../common/errors.ts'
import type { Text } from '../sources/text.ts'

/**
 * A text has a place to cut within this many bytes, unless it contains a word that is too long for GPT-2's tokenizer
 * (gpt2.ts). The longest stretch without one is white space, then punctuation that ends in an apostrophe, then letters.
 */
const longestStretch = 2 ** 20

/**
 * A text in chunks of about `size` bytes, cut so that the chunks have the same GPT-2 tokens as the whole text. It is cut
 * where the kind of character changes: letters, numbers, white space and all others. No match of GPT-2's regular
 * expression spans such a place, with two exceptions: white space belongs to what follows it (" a" is one match, and the
 * lookahead of the last two alternatives starts there), and so does an apostrophe ("'s" is one match).
 *
 * Throws a UserError for a text with no place to cut within a megabyte, which limits the memory that a text needs.
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
      yield new Uint8Array(whole.subarray(0, cut)) // a copy, unlike Buffer's slice
      whole = whole.subarray(cut)
    }
    if (whole.length >= size + longestStretch) throw noPlaceToCut()
    rest = [whole]
    length = whole.length
  }
  if (length > 0) yield new Uint8Array(joined(rest, length))
}

/** The last place to cut in the first `size` bytes, or the first one soon after them; 0 if there is none. */
function findCut(bytes: Uint8Array, size: number): number {
  for (let i = Math.min(size, bytes.length - 1); i > 0; i--) if (isCut(bytes, i)) return i
  const end = Math.min(bytes.length, size + longestStretch)
  for (let i = size + 1; i < end; i++) if (isCut(bytes, i)) return i
  return 0
}

function isCut(bytes: Uint8Array, i: number): boolean {
  if (isContinuation(bytes[i]!)) return false
  const after = kindAt(bytes, i)
  if (after === undefined) return false
  let start = i - 1
  while (start > 0 && i - start < 4 && isContinuation(bytes[start]!)) start--
  const before = kindAt(bytes, start)
  if (before === after || before === 'white') return false
  return after !== 'letter' || bytes[start] !== apostrophe
}

const apostrophe = 0x27

type Kind = 'white' | 'letter' | 'number' | 'other'

/** The kind of a character. */
const kindOf = (character: string): Kind =>
  /\p{White_Space}/u.test(character)
    ? 'white'
    : /\p{L}/u.test(character)
      ? 'letter'
      : /\p{N}/u.test(character)
        ? 'number'
        : 'other'
const asciiKinds = Array.from({ length: 0x80 }, (_, code) => kindOf(String.fromCharCode(code)))
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

/** The kind of the UTF-8 character at a position; undefined if it is incomplete. */
function kindAt(bytes: Uint8Array, i: number): Kind | undefined {
  const first = bytes[i]!
  if (first < 0x80) return asciiKinds[first]
  const end = i + (first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4)
  return end > bytes.length ? undefined : kindOf(decoder.decode(bytes.subarray(i, end)))
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80
}

function noPlaceToCut(): UserError {
  return new UserError(
    `The text has more than ${longestStretch.toLocaleString('en')} bytes without a place between two words, which ` +
      "GPT-2's tokenizer would take hours for: is it text at all? --tokenizer bytes takes it.",
  )
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
