import { basename, join, resolve } from 'node:path'
import { reasonOf, UserError } from '../run/errors.ts'
import { hasHalves } from './halves.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { namesIn, openRegular } from './regular-file.ts'
import { readTokens } from './token-file.ts'

const tokenNames = ['train.bin', 'val.bin'] as const

/** Tokens that somebody else made. */
export type TokenFolder = { name: string; train: Uint16Array; validation: Uint16Array; files: LocalFile[] }

/** nanoGPT's train.bin and val.bin, if a folder has them and no text. */
export async function openTokenFolder(
  folder: string,
  vocabularySize: number,
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
  const [train, validation] = await Promise.all(files.map(file => readTokenIds(file, vocabularySize)))
  return { name: basename(resolve(folder)), train: train!, validation: validation!, files }
}

async function readTokenIds({ path, size }: LocalFile, vocabularySize: number): Promise<Uint16Array> {
  const file = await openRegular(path)
  try {
    if (size % 2 === 1)
      throw new UserError(`${path} has an odd number of bytes: its tokens should be uint16.`)
    const tokens = await readTokens(file, 0, size / 2)
    const type = otherType(tokens)
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
    const wrong = tokens.findIndex(token => token >= vocabularySize)
    if (wrong < 0) return tokens
    const limit = `a vocabulary of ${vocabularySize} tokens`
    throw new UserError(`${path} is not of ${limit}: number ${wrong} of its tokens is ${tokens[wrong]}.`)
  } catch (error) {
    throw error instanceof UserError ? error : new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  } finally {
    await file.close()
  }
}

/** Fewer numbers than these may look like another type by chance. */
const enough = 32

/**
 * What a file read as uint16 has instead, as NumPy writes the type: the numbers of a wider one, all of them below 65,536,
 * are 0 at every other place, or at three of four. Text is made of bytes that a keyboard has, which no two bytes of all
 * tokens are. Nothing if it may be uint16.
 */
function otherType(tokens: Uint16Array): '<u4' | '>u4' | '<i8' | '>i8' | 'text' | undefined {
  if (tokens.length < enough) return undefined
  /** Whether the numbers at some places of every `step` are 0, and those at the place `but` are not all. */
  const zeroBut = (but: number, step: number): boolean => {
    let isUsed = false
    for (let i = 0; i < tokens.length; i++) {
      if (tokens[i] === 0) continue
      if (i % step !== but) return false
      isUsed = true
    }
    return isUsed
  }
  if (zeroBut(0, 4)) return '<i8'
  if (zeroBut(0, 2)) return '<u4'
  if (zeroBut(3, 4)) return '>i8'
  if (zeroBut(1, 2)) return '>u4'
  const isCharacter = (byte: number): boolean => (byte >= 9 && byte <= 13) || (byte >= 32 && byte < 127)
  return tokens.every(token => isCharacter(token >> 8) && isCharacter(token & 0xff)) ? 'text' : undefined
}
