/** A folder with nanoGPT's train.bin and val.bin: GPT-2 tokens, or others that fit the tokenizer. */
import { basename, join, resolve } from 'node:path'
import { reasonOf, UserError } from '../../common/errors.ts'
import { readOnce } from '../cache/content.ts'
import { hasSplits } from './split-files.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { namesIn, openRegular } from '../../common/regular-file.ts'
import { readTokens } from '../tokens/token-file.ts'
import { openWindows } from '../tokens/token-windows.ts'
import { gpt2 } from '../tokens/gpt2.ts'
import type { Tokens } from '../tokens/tokenizer.ts'
import type { Format, OpenOptions } from './source.ts'

const tokenNames = ['train.bin', 'val.bin'] as const

/** Tokens that are checked at a time: a multiple of four, so that a 64-bit number is never cut. */
const tokensOfPiece = 2 ** 22

export const tokenFolder: Format = {
  tokenizer: gpt2,
  async matches(path, isFolder) {
    if (!isFolder) return false
    const names = await namesIn(path)
    return tokenNames.some(name => names.includes(name)) && !hasSplits(names)
  },
  async open(folder, options) {
    const names = await namesIn(folder)
    const missing = tokenNames.find(name => !names.includes(name))
    if (missing !== undefined) throw new UserError(`${folder} has no ${missing} beside its other half.`)
    if (names.includes('meta.pkl')) {
      throw new UserError(
        `The tokens in ${folder} are of a vocabulary of its own (meta.pkl): give the text instead.`,
      )
    }
    const files = await Promise.all(tokenNames.map(name => findFile(join(folder, name))))
    const [train, validation] = await Promise.all(files.map(file => readTokenIds(file, options)))
    return {
      name: basename(resolve(folder)),
      place: resolve(folder),
      version: files,
      tokens: { train: train!, validation: validation! },
    }
  },
}

/** The tokens of a file: in memory, or as windows of the file if there are too many. All of them are checked. */
async function readTokenIds(file: LocalFile, options: OpenOptions): Promise<Tokens> {
  const { path, size } = file
  const { inMemory, cacheFolder } = options
  const { vocabularySize } = options.tokenizer
  const length = size / 2
  const handle = await openRegular(path)
  let isKept = false
  try {
    if (size % 2 === 1)
      throw new UserError(`${path} has an odd number of bytes: its tokens should be uint16.`)
    if (size <= inMemory) {
      const tokens = await readTokens(handle, 0, length)
      const check = new TokenCheck(vocabularySize)
      check.add(tokens)
      check.refuseOthers(path)
      return tokens
    }
    const windows = openWindows(handle, { path, start: 0, length, width: 2 })
    const checkAll = async (show: (bytes: number) => void) => {
      const check = new TokenCheck(vocabularySize)
      for (let at = 0; at < length; at += tokensOfPiece) {
        check.add(await readTokens(handle, 2 * at, Math.min(tokensOfPiece, length - at)))
        show(2 * at)
      }
      check.refuseOthers(path)
      return 'tokens'
    }
    await readOnce(file, `tokens below ${vocabularySize}`, checkAll, cacheFolder, options)
    isKept = true
    return windows
  } catch (error) {
    throw error instanceof UserError ? error : new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  } finally {
    if (!isKept) await handle.close()
  }
}

/** With fewer numbers than this, a file of uint16 may look like another type by chance. */
const minimumForTypes = 32

const isCharacter = (byte: number): boolean => (byte >= 9 && byte <= 13) || (byte >= 32 && byte < 127)

/** Checks, piece by piece, that the numbers of a file, read as uint16, are tokens of a vocabulary. */
class TokenCheck {
  readonly #vocabularySize: number
  #length = 0
  /** For each of the four positions in every group of four numbers, whether any of them is not 0. */
  readonly #used = [false, false, false, false]
  #isText = true
  #wrong: { place: number; token: number } | undefined

  constructor(vocabularySize: number) {
    this.#vocabularySize = vocabularySize
  }

  /** Adds the next numbers: a multiple of four, unless they are the last. */
  add(tokens: Uint16Array): void {
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!
      if (token !== 0) this.#used[i % 4] = true
      if (this.#isText && !(isCharacter(token >> 8) && isCharacter(token & 0xff))) this.#isText = false
      if (token >= this.#vocabularySize) this.#wrong ??= { place: this.#length + i, token }
    }
    this.#length += tokens.length
  }

  /** Throws a UserError unless all numbers are in the vocabulary. */
  refuseOthers(path: string): void {
    const type = this.#otherType()
    if (type === 'text') {
      throw new UserError(
        `${path} has ASCII text, not tokens: name it .txt, and give it to --data as a file.`,
      )
    }
    if (type !== undefined) {
      throw new UserError(
        `${path} has tokens of ${8 * Number(type.at(-1))} bits, and nanoGPT's have 16: convert it with NumPy, ` +
          `np.fromfile("${basename(path)}", "${type}").astype("<u2").tofile(...).`,
      )
    }
    if (!this.#wrong) return
    const { place, token } = this.#wrong
    const limit = `a vocabulary of ${this.#vocabularySize} tokens`
    throw new UserError(`${path} is not of ${limit}: number ${place} of its tokens is ${token}.`)
  }

  /**
   * The type of the file's content if it is not uint16, in NumPy's notation. Wider integers below 65,536 have zeros at
   * every second position, or at three of four. A text has only printable ASCII bytes, unlike real tokens.
   */
  #otherType(): '<u4' | '>u4' | '<i8' | '>i8' | 'text' | undefined {
    if (this.#length < minimumForTypes) return undefined
    const [first, second, third, fourth] = this.#used
    if (first && !second && !third && !fourth) return '<i8'
    if ((first || third) && !second && !fourth) return '<u4'
    if (fourth && !first && !second && !third) return '>i8'
    if ((second || fourth) && !first && !third) return '>u4'
    return this.#isText ? 'text' : undefined
  }
}
