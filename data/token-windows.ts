// Tokens that stay in a file: a stretch of them is read when it is asked for, so that a text may be larger than memory.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { reasonOf, UserError } from '../run/errors.ts'
import { changed, versionOf, type LocalFile } from './local-file.ts'
import type { TokenArray, Tokens } from './tokenizer.ts'

/** Where tokens lie in a file: `length` of them from byte `start` on, little-endian, `width` bytes each. */
export type TokenPlace = { file: LocalFile; start: number; length: number; width: 1 | 2 }

/** Closes files whose tokens nobody can reach any more. */
const unreachable = new FinalizationRegistry<number>(descriptor => closeSync(descriptor))

const tokensOfPiece = 2 ** 20

/**
 * The tokens in a file. The system keeps in its page cache what is read often, as it does for memory-mapped files.
 * The file stays open: it may be renamed or deleted meanwhile. Once somebody writes to it, a read is a UserError.
 */
export function openWindows({ file, start, length, width }: TokenPlace): Tokens {
  const { path, version } = file
  const descriptor = orRefuse(path, () => openSync(path, 'r'))
  const found = orRefuse(path, () => fstatSync(descriptor))
  if (versionOf(found) !== version) throw changed(path)
  const tokens: Tokens = {
    length,
    slice(from, to) {
      const count = Math.max(0, Math.min(to, length) - from)
      const read: TokenArray = width === 1 ? new Uint8Array(count) : new Uint16Array(count)
      const bytes = new Uint8Array(read.buffer)
      for (let at = 0; at < bytes.length;) {
        const place = start + from * width + at
        const most = Math.min(bytes.length - at, 2 ** 30)
        const bytesRead = orRefuse(path, () => readSync(descriptor, bytes, at, most, place))
        if (bytesRead === 0) throw changed(path) // it became shorter
        at += bytesRead
      }
      const { size, mtimeMs } = orRefuse(path, () => fstatSync(descriptor))
      if (size !== found.size || mtimeMs !== found.mtimeMs) throw changed(path)
      return read
    },
    *[Symbol.iterator]() {
      for (let at = 0; at < length; at += tokensOfPiece) yield* tokens.slice(at, at + tokensOfPiece)
    },
  }
  unreachable.register(tokens, descriptor)
  return tokens
}

function orRefuse<T>(path: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
}
