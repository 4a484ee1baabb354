import type { FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { openRegular } from './regular-file.ts'
import { writeWhole } from './whole-file.ts'

// A line of JSON filled up with spaces, then the tokens as little-endian uint16, as in nanoGPT's files.
const headerBytes = 1024
const format = 'hlb-gpt tokens 1'

/** What a file has the tokens of: a corpus by name, its text by a hash of what tells it from others. */
export type TokensOf = { corpus: string; text: string; tokenizer: string }

/** Tokens, and how many bytes of text they stand for. */
export type Counted = { tokens: Uint16Array; bytes: number }

type Header = TokensOf & { format: string; tokens: number; bytes: number; crc32: number }

/** The tokens in a file; nothing if it is not there, not whole, altered, or of another text or tokenizer. */
export async function readTokenFile(
  path: string,
  { text, tokenizer }: TokensOf,
): Promise<Counted | undefined> {
  let file: FileHandle | undefined
  try {
    file = await openRegular(path)
    const start = new Uint8Array(headerBytes)
    await file.read(start, 0, headerBytes, 0)
    const header = readHeader(new TextDecoder().decode(start))
    if (header?.text !== text || header.tokenizer !== tokenizer) return undefined
    const { size } = await file.stat()
    if (size !== headerBytes + 2 * header.tokens) return undefined
    const tokens = await readTokens(file, headerBytes, header.tokens)
    return crc32(bytesOf(tokens)) === header.crc32 ? { tokens, bytes: header.bytes } : undefined
  } catch {
    return undefined // what cannot be read is made again
  } finally {
    await file?.close()
  }
}

/** Writes tokens as they come, in a file that is there only once all of them are in it. */
export async function writeTokenFile(
  path: string,
  { corpus, text, tokenizer }: TokensOf,
  pieces: AsyncIterable<Uint16Array>,
  countBytes: () => number,
): Promise<void> {
  await writeWhole(path, async file => {
    let [tokens, checksum] = [0, 0]
    for await (const piece of pieces) {
      const bytes = bytesOf(piece)
      await writeAll(file, bytes, headerBytes + 2 * tokens)
      checksum = crc32(bytes, checksum)
      tokens += piece.length
    }
    const named = { format, corpus: corpus.slice(0, 100), text, tokenizer }
    const header: Header = { ...named, tokens, bytes: countBytes(), crc32: checksum }
    const line = Buffer.alloc(headerBytes, ' ')
    line.write(JSON.stringify(header))
    line.write('\n', headerBytes - 1)
    await writeAll(file, line, 0)
  })
}

/** So many tokens from a place in a file. */
export async function readTokens(file: FileHandle, at: number, count: number): Promise<Uint16Array> {
  const tokens = new Uint16Array(count)
  const bytes = bytesOf(tokens)
  for (let length = 0; length < bytes.length;) {
    const { bytesRead } = await file.read(
      bytes,
      length,
      Math.min(bytes.length - length, 2 ** 30),
      at + length,
    )
    if (bytesRead === 0) throw new RangeError(`it ends after ${at + length} bytes`)
    length += bytesRead
  }
  return tokens
}

function bytesOf(tokens: Uint16Array): Uint8Array {
  return new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
}

async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let length = 0; length < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, length, bytes.length - length, at + length)
    length += bytesWritten
  }
}

function readHeader(text: string): Header | undefined {
  const value: unknown = JSON.parse(text)
  return isHeader(value) && value.format === format ? value : undefined
}

function isHeader(value: unknown): value is Header {
  if (typeof value !== 'object' || value === null) return false
  const kinds = {
    format: 'string',
    corpus: 'string',
    text: 'string',
    tokenizer: 'string',
    tokens: 'number',
    bytes: 'number',
    crc32: 'number',
  }
  const entries = new Map<string, unknown>(Object.entries(value))
  return Object.entries(kinds).every(([name, kind]) => typeof entries.get(name) === kind)
}
