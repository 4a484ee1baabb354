import { open, readdir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { reasonOf, UserError } from '../run/errors.ts'
import { hasHalves } from './halves.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { readTokens } from './token-file.ts'

const tokenNames = ['train.bin', 'val.bin'] as const

/** Tokens that somebody else made. */
export type TokenFolder = { name: string; train: Uint16Array; validation: Uint16Array }

/** nanoGPT's train.bin and val.bin, if a folder has them and no text. */
export async function openTokenFolder(
  folder: string,
  vocabularySize: number,
): Promise<TokenFolder | undefined> {
  const names = await readdir(folder)
  const missing = tokenNames.filter(name => !names.includes(name))
  if (missing.length === tokenNames.length || hasHalves(names)) return undefined
  if (missing.length > 0) throw new UserError(`${folder} has no ${missing[0]} beside its other half.`)
  if (names.includes('meta.pkl')) {
    throw new UserError(
      `The tokens in ${folder} are of a vocabulary of its own (meta.pkl): give the text instead.`,
    )
  }
  const [train, validation] = await Promise.all(
    tokenNames.map(async name => await readTokenIds(await findFile(join(folder, name)), vocabularySize)),
  )
  return { name: basename(resolve(folder)), train: train!, validation: validation! }
}

async function readTokenIds({ path, size }: LocalFile, vocabularySize: number): Promise<Uint16Array> {
  if (size % 2 === 1) throw new UserError(`${path} has an odd number of bytes: its tokens should be uint16.`)
  const file = await open(path)
  try {
    const tokens = await readTokens(file, 0, size / 2)
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
