/** Tokens that stay in a file and are read as they are needed, for texts larger than memory. */
import { fstatSync, readSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { reasonOf, UserError } from '../../common/errors.ts'
import { changed } from '../sources/local-file.ts'
import type { TokenArray, Tokens } from './tokenizer.ts'

/** Where tokens lie in a file: `length` tokens from byte `start`, little-endian, with `width` bytes each. */
export type TokenPlace = { path: string; start: number; length: number; width: 1 | 2 }

/** Closes files whose tokens are no longer reachable. */
const unreachable = new FinalizationRegistry<FileHandle>(file => void file.close().catch(() => {}))

const tokensOfPiece = 2 ** 20

/**
 * The tokens in an open file. As with a memory-mapped file, the system keeps frequently read parts in its page cache. The
 * file stays open as long as the tokens are used, so it may be renamed or deleted in the meantime. A read throws a
 * UserError once the file is written to. Its size and time tell that, since checking the content would take too long.
 */
export function openWindows(file: FileHandle, { path, start, length, width }: TokenPlace): Tokens {
  const before = orRefuse(path, () => fstatSync(file.fd))
  const tokens: Tokens = {
    length,
    slice(from, to) {
      const count = Math.max(0, Math.min(to, length) - from)
      const read: TokenArray = width === 1 ? new Uint8Array(count) : new Uint16Array(count)
      const bytes = new Uint8Array(read.buffer)
      for (let at = 0; at < bytes.length;) {
        const place = start + from * width + at
        const most = Math.min(bytes.length - at, 2 ** 30)
        const bytesRead = orRefuse(path, () => readSync(file.fd, bytes, at, most, place))
        if (bytesRead === 0) throw changed(path) // it became shorter
        at += bytesRead
      }
      const { size, mtimeMs } = orRefuse(path, () => fstatSync(file.fd))
      if (size !== before.size || mtimeMs !== before.mtimeMs) throw changed(path)
      return read
    },
    *[Symbol.iterator]() {
      for (let at = 0; at < length; at += tokensOfPiece) yield* tokens.slice(at, at + tokensOfPiece)
    },
  }
  unreachable.register(tokens, file)
  return tokens
}

function orRefuse<T>(path: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
}
