/** Tokenizes the splits of a text, and keeps the tokens in the cache. */
import { createHash } from 'node:crypto'
import { basename, join } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { createProgress } from '../../common/progress.ts'
import { openRegular } from '../../common/regular-file.ts'
import type { Reporting } from '../cache/content.ts'
import { inTurn } from '../cache/in-turn.ts'
import { readShort, type Split, type TextSource } from '../sources/text.ts'
import { gpt2 } from './gpt2.ts'
import { readTokenFile, writeTokenFile, type CountedTokens } from './token-file.ts'
import { openWindows } from './token-windows.ts'
import { tokenize } from './tokenize.ts'
import { bytes, type TokenArray, type Tokenizer } from './tokenizer.ts'

/** The folder of the cache that has tokens. */
export const tokenFolderName = 'tokens'

export type TokenizeSplitOptions = Reporting & {
  cacheFolder: string
  /** The largest size in bytes at which a split is held in memory; of a larger one, windows are read from its file. */
  inMemory: number
  /** Identifies the content of the text. */
  content: string
  /** Throws a UserError if the content has changed. */
  verify: () => Promise<void>
}

/** The tokens of a split of a text. */
export async function tokensOf(
  source: TextSource,
  split: Split,
  tokenizer: Tokenizer,
  options: TokenizeSplitOptions,
): Promise<CountedTokens> {
  return tokenizer === bytes
    ? await bytesOf(source, split, options)
    : await gpt2TokensOf(source, split, options)
}

/** A split as bytes: in memory if it is short, else read from its own file, or from a file of the cache. */
async function bytesOf(
  source: TextSource,
  split: Split,
  options: TokenizeSplitOptions,
): Promise<CountedTokens> {
  const { inMemory } = options
  const text = source[split]
  if (text.size <= inMemory) {
    const whole = await readShort(text, inMemory)
    if (whole) return { tokens: whole, bytes: whole.length }
  }
  if (text.place) {
    const { path, start, end } = text.place
    const length = end - start
    return { tokens: openWindows(await openRegular(path), { path, start, length, width: 1 }), bytes: length }
  }
  return await cachedTokens(source, split, unpacking, options, async function* (progress) {
    let done = 0
    for await (const piece of text.pieces()) {
      done += piece.length
      yield piece
      progress(done)
    }
  })
}

/** A split as GPT-2 tokens. */
async function gpt2TokensOf(
  source: TextSource,
  split: Split,
  options: TokenizeSplitOptions,
): Promise<CountedTokens> {
  return await cachedTokens(source, split, tokenizing, options, progress =>
    tokenize(source[split], { progress }),
  )
}

/** The tokenizer of some work, and the verbs for it in messages. */
type Work = { tokenizer: Tokenizer; doing: string; does: string }

const unpacking: Work = { tokenizer: bytes, doing: 'Unpacking', does: 'unpacks' }
const tokenizing: Work = { tokenizer: gpt2, doing: 'Tokenizing', does: 'tokenizes' }

/** The tokens of a split from their file in the cache, which is made first if it is not there. */
async function cachedTokens(
  source: TextSource,
  split: Split,
  { tokenizer, doing, does }: Work,
  options: TokenizeSplitOptions,
  makeTokens: (progress: (bytes: number) => void) => AsyncIterable<TokenArray>,
): Promise<CountedTokens> {
  const { cacheFolder, inMemory, content, verify, report, screen } = options
  const readable = basename(source.place)
    .replaceAll(/[^\w.-]/g, '_')
    .slice(0, 80)
  const file = `${readable}-${sha256(source.place).slice(0, 8)}.${tokenizer.name}.${split}.bin`
  const path = join(cacheFolder, tokenFolderName, file)
  const what = {
    corpus: source.name,
    text: sha256(`${source.place} ${content}`),
    tokenizer: tokenizer.name,
  }
  const read = async () => await readTokenFile(path, what, { inMemory, cacheFolder, report, screen })
  const waiting = () => report?.(`Another process ${does} ${source.name}: waiting for it.`)
  return (await read()) ?? (await inTurn(path, async () => (await read()) ?? (await make()), { waiting }))

  async function make(): Promise<CountedTokens> {
    const { size } = source[split]
    const progress = createProgress(screen)
    const start = performance.now()
    let done = 0
    const show = (bytes: number): void => {
      if (done === 0 && size > 2e7) report?.(`${doing} ${source.name}, once.`)
      done = bytes
      const rate = bytes / 1000 / (performance.now() - start)
      progress.update(
        bytes / size,
        `${doing.toLowerCase()}: ${(bytes / 1e6).toFixed(0)} MB, ${rate.toFixed(0)} MB/s`,
      )
    }
    async function* tokens() {
      yield* makeTokens(show)
      await verify() // before the file gets its name
    }
    try {
      await writeTokenFile(path, what, tokens(), () => done)
    } finally {
      progress.clear()
    }
    const made = await read()
    if (!made) throw new UserError(`${path} could not be read back as it was written: check the disk.`)
    return made
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
