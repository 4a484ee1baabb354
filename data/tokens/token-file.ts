/** Files of tokens in the cache: a header in JSON, then the tokens. */
import type { FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { writeCached } from '../cache/cache-file.ts'
import { readOnce, type Reporting } from '../cache/content.ts'
import { findFile } from '../sources/local-file.ts'
import { openRegular } from '../../common/regular-file.ts'
import { openWindows } from './token-windows.ts'
import type { TokenArray, Tokens } from './tokenizer.ts'
import { isRecord } from '../../common/json.ts'

// The header is a line of JSON padded with spaces. The tokens are little-endian uint16, as in nanoGPT's files, or bytes.
const headerBytes = 1024
const format = 'hlb-gpt tokens 1'
const pieceSize = 2 ** 24

/** Bytes per token, for each tokenizer. */
const widths = new Map<string, 1 | 2>([
  ['bytes', 1],
  ['gpt2', 2],
])

export type ReadOptions = Reporting & {
  /** The largest size in bytes at which tokens are held in memory. */
  inMemory: number
  cacheFolder: string
}

/** The text that a file has the tokens of. `text` is a hash that identifies it. */
export type TokenizedText = { corpus: string; text: string; tokenizer: string }

/** Tokens, and the number of bytes of text that they stand for. */
export type CountedTokens = { tokens: Tokens; bytes: number }

type Header = TokenizedText & { format: string; tokens: number; bytes: number; crc32: number }

/**
 * The tokens in a file: in memory, or as windows of the file if they take more than `inMemory` bytes. Undefined if the
 * file is missing, incomplete or altered, or has another text or tokenizer.
 */
export async function readTokenFile(
  path: string,
  { text, tokenizer }: TokenizedText,
  { inMemory, cacheFolder, ...reporting }: ReadOptions,
): Promise<CountedTokens | undefined> {
  let file: FileHandle | undefined
  try {
    file = await openRegular(path)
    const start = new Uint8Array(headerBytes)
    await file.read(start, 0, headerBytes, 0)
    const header = readHeader(new TextDecoder().decode(start))
    const width = widths.get(tokenizer)
    if (header?.text !== text || header.tokenizer !== tokenizer || width === undefined) return undefined
    const { tokens: length, bytes } = header
    const stats = await file.stat()
    if (stats.size !== headerBytes + width * length) return undefined
    if (width * length <= inMemory) {
      const tokens = await readTokens(file, headerBytes, length, width)
      return crc32(bytesOf(tokens)) === header.crc32 ? { tokens, bytes } : undefined
    }
    const tokens = openWindows(file, { path, start: headerBytes, length, width })
    const handle = file
    const check = async (show: (bytes: number) => void) =>
      String(await checksumOf(handle, headerBytes, stats.size, show))
    const checksum = await readOnce(await findFile(path), 'crc32', check, cacheFolder, reporting)
    if (checksum !== String(header.crc32)) return undefined
    file = undefined // the windows keep it open
    return { tokens, bytes }
  } catch {
    return undefined // a file that cannot be read is made again
  } finally {
    await file?.close()
  }
}

/** Writes tokens to a file as they are made. The file gets its name once it is complete. */
export async function writeTokenFile(
  path: string,
  { corpus, text, tokenizer }: TokenizedText,
  pieces: AsyncIterable<TokenArray>,
  countBytes: () => number,
): Promise<void> {
  await writeCached(path, async file => {
    let [tokens, checksum, end] = [0, 0, headerBytes]
    for await (const piece of pieces) {
      const bytes = bytesOf(piece)
      await writeAll(file, bytes, end)
      checksum = crc32(bytes, checksum)
      tokens += piece.length
      end += bytes.length
    }
    const named = { format, corpus: corpus.slice(0, 100), text, tokenizer }
    const header: Header = { ...named, tokens, bytes: countBytes(), crc32: checksum }
    const line = Buffer.alloc(headerBytes, ' ')
    line.write(JSON.stringify(header))
    line.write('\n', headerBytes - 1)
    await writeAll(file, line, 0)
  })
}

/** Reads `count` tokens, starting at byte `at` of a file. */
export async function readTokens(file: FileHandle, at: number, count: number): Promise<Uint16Array>
export async function readTokens(
  file: FileHandle,
  at: number,
  count: number,
  width: 1 | 2,
): Promise<TokenArray>
export async function readTokens(
  file: FileHandle,
  at: number,
  count: number,
  width: 1 | 2 = 2,
): Promise<TokenArray> {
  const tokens = width === 1 ? new Uint8Array(count) : new Uint16Array(count)
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

/** The CRC-32 of a file's bytes from `start` to `end`. */
async function checksumOf(
  file: FileHandle,
  start: number,
  end: number,
  show: (bytes: number) => void,
): Promise<number> {
  const piece = new Uint8Array(Math.min(pieceSize, end - start))
  let checksum = 0
  for (let at = start; at < end;) {
    const { bytesRead } = await file.read(piece, 0, Math.min(piece.length, end - at), at)
    if (bytesRead === 0) throw new RangeError(`it ends after ${at} bytes`)
    checksum = crc32(piece.subarray(0, bytesRead), checksum)
    at += bytesRead
    show(at)
  }
  return checksum
}

function bytesOf(tokens: TokenArray): Uint8Array {
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
  if (!isRecord(value)) return false
  const kinds = {
    format: 'string',
    corpus: 'string',
    text: 'string',
    tokenizer: 'string',
    tokens: 'number',
    bytes: 'number',
    crc32: 'number',
  }
  return Object.entries(kinds).every(([name, kind]) => typeof value[name] === kind)
}
