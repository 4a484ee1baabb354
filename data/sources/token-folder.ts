import { basename, join, resolve } from 'node:path'
import { reasonOf, UserError } from '../../common/errors.ts'
import { readOnce } from '../cache/content.ts'
import { hasHalves } from './split-files.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { namesIn, openRegular } from '../../common/regular-file.ts'
import { readTokens, type Reading } from '../tokens/token-file.ts'
import { openWindows } from '../tokens/token-windows.ts'
import type { Tokens } from '../tokens/tokenizer.ts'

const tokenNames = ['train.bin', 'val.bin'] as const

/** Tokens that somebody else made. */
export type TokenFolder = { name: string; train: Tokens; validation: Tokens; files: LocalFile[] }

/** Tokens that are looked at together: a multiple of four, so that the places of numbers of 64 bits go on. */
const tokensOfPiece = 2 ** 22

/** nanoGPT's train.bin and val.bin, if a folder has them and no text. */
export async function openTokenFolder(
  folder: string,
  vocabularySize: number,
  reading: Reading,
): Promise<TokenFolder | undefined> {
  const names = await namesIn(folder)
  const missing = tokenNames.filter(name => !names.includes(name))
  if (missing.length === tokenNames.length || hasHalves(names)) return undefined
  if (missing.length > 0) throw new UserError(`${folder} has no ${missing[0]} beside its other half.`)
  if (names.includes('meta.pkl')) {
    throw new UserError(
      `The tokens in ${folder} are of a vocabulary of its own (meta.pkl): give the text instead.`,
    )
  }
  const files = await Promise.all(tokenNames.map(name => findFile(join(folder, name))))
  const [train, validation] = await Promise.all(
    files.map(file => readTokenIds(file, vocabularySize, reading)),
  )
  return { name: basename(resolve(folder)), train: train!, validation: validation!, files }
}

/** A file's tokens: in memory, or as windows of the file where they are too many. All of them are looked at. */
async function readTokenIds(file: LocalFile, vocabularySize: number, reading: Reading): Promise<Tokens> {
  const { path, size } = file
  const { inMemory, cacheFolder } = reading
  const length = size / 2
  const handle = await openRegular(path)
  let isKept = false
  try {
    if (size % 2 === 1)
      throw new UserError(`${path} has an odd number of bytes: its tokens should be uint16.`)
    if (size <= inMemory) {
      const tokens = await readTokens(handle, 0, length)
      const look = new Look(vocabularySize)
      look.at(tokens)
      look.refuseOthers(path)
      return tokens
    }
    const windows = openWindows(handle, { path, start: 0, length, width: 2 })
    const lookAtAll = async (show: (bytes: number) => void) => {
      const look = new Look(vocabularySize)
      for (let at = 0; at < length; at += tokensOfPiece) {
        look.at(await readTokens(handle, 2 * at, Math.min(tokensOfPiece, length - at)))
        show(2 * at)
      }
      look.refuseOthers(path)
      return 'tokens'
    }
    await readOnce(file, `tokens below ${vocabularySize}`, lookAtAll, cacheFolder, reading)
    isKept = true
    return windows
  } catch (error) {
    throw error instanceof UserError ? error : new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  } finally {
    if (!isKept) await handle.close()
  }
}

/** Fewer numbers than these may look like another type by chance. */
const enough = 32

const isCharacter = (byte: number): boolean => (byte >= 9 && byte <= 13) || (byte >= 32 && byte < 127)

/** Looks at a file's numbers read as uint16, piece by piece: whether they are tokens of a vocabulary. */
class Look {
  readonly #vocabularySize: number
  #length = 0
  /** Whether numbers at the places 0 to 3 of every four are other than 0. */
  readonly #used = [false, false, false, false]
  #isText = true
  #wrong: { place: number; token: number } | undefined

  constructor(vocabularySize: number) {
    this.#vocabularySize = vocabularySize
  }

  /** The next numbers: a multiple of four of them, unless they are the last. */
  at(tokens: Uint16Array): void {
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!
      if (token !== 0) this.#used[i % 4] = true
      if (this.#isText && !(isCharacter(token >> 8) && isCharacter(token & 0xff))) this.#isText = false
      if (token >= this.#vocabularySize) this.#wrong ??= { place: this.#length + i, token }
    }
    this.#length += tokens.length
  }

  /** Throws a UserError unless all numbers are tokens of the vocabulary. */
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
   * What a file has instead of uint16, as NumPy writes the type: the numbers of a wider one, all of them below 65,536,
   * are 0 at every other place, or at three of four. Text is made of bytes that a keyboard has, which no two bytes of
   * all tokens are. Nothing if it may be uint16.
   */
  #otherType(): '<u4' | '>u4' | '<i8' | '>i8' | 'text' | undefined {
    if (this.#length < enough) return undefined
    const [first, second, third, fourth] = this.#used
    if (first && !second && !third && !fourth) return '<i8'
    if ((first || third) && !second && !fourth) return '<u4'
    if (fourth && !first && !second && !third) return '>i8'
    if ((second || fourth) && !first && !third) return '>u4'
    return this.#isText ? 'text' : undefined
  }
}
