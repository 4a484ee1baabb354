import { createHash } from 'node:crypto'
import { freemem } from 'node:os'
import { basename, extname, join, resolve } from 'node:path'
import { UserError } from '../common/errors.ts'
import { createProgress, type Screen } from '../common/progress.ts'
import { contentOf, noteFolder, refuseChanged } from './cache/content.ts'
import type { Patience } from './sources/download.ts'
import { openFolder } from './sources/folder.ts'
import { countBytes, gpt2 } from './tokens/gpt2.ts'
import { inTurn } from './cache/in-turn.ts'
import { removeLeftovers } from '../common/temporary-files.ts'
import { isFolder, wikitextName, type LocalFile } from './sources/local-file.ts'
import { openParquetFile } from './sources/parquet/parquet.ts'
import { openRegular } from '../common/regular-file.ts'
import { openStateOfTheUnion } from './sources/state-of-the-union.ts'
import { openTextFile } from './sources/text-file.ts'
import { readShort, type Source } from './sources/text.ts'
import { readTokenFile, writeTokenFile, type Counted } from './tokens/token-file.ts'
import { openTokenFolder } from './sources/token-folder.ts'
import { openWindows } from './tokens/token-windows.ts'
import { bytes, type TokenArray, type Tokenizer, type Tokens } from './tokens/tokenizer.ts'
import { tokenize } from './tokens/tokenize.ts'
import { openWikitext, type Edition } from './sources/wikitext.ts'
import { openZipFile } from './sources/zip.ts'

/** A text to train on, as token ids. */
export type Corpus = {
  /** What it is called in the run's header. */
  name: string
  train: Tokens
  /** Held out: the network is measured on it and never trained on it. */
  validation: Tokens
  tokenizer: Tokenizer
  /** Bytes of validation text in a token, on average: what turns nats per token into bits per byte. */
  bytesPerToken: number
  /** Stands for the content of both texts, wherever they lie: a run that goes on compares it. Empty without a text. */
  fingerprint: string
}

export type CorpusOptions = {
  /** wikitext-103, or a file or folder; without it, the State of the Union addresses. */
  data?: string | undefined
  /** Without it, what the data is usual with: gpt2 for wikitext-103 and nanoGPT's files, else bytes. */
  tokenizer?: string | undefined
  /** Another source of wikitext-103. */
  mirror?: string | undefined
  /** Tokens in a training window: a text that does not fill one is refused. */
  sequenceLength: number
  /** false: only the tokenizer is needed. The text is not looked for, and both its halves are empty. */
  train?: boolean | undefined
  /** Where what was downloaded or tokenized is kept. */
  cacheFolder?: string | undefined
  /** Is told what takes a while. */
  report?: ((message: string) => void) | undefined
  /** Bytes of tokens up to which a half of the text is in memory; of a longer one, windows are read from its file. */
  inMemory?: number | undefined
  /** Where progress is drawn. */
  screen?: Screen | undefined
  /** Which WikiText: the tests have small ones. */
  edition?: Edition | undefined
  patience?: Patience | undefined
}

/** What --tokenizer takes. */
export const tokenizerNames = ['bytes', 'gpt2'] as const

/** WikiText-103 as GPT-2's tokens fits, unless the machine is small. */
const inMemoryByDefault = () => Math.min(2 ** 28, (process.availableMemory?.() ?? freemem()) / 16)
const projectCache = resolve(import.meta.dirname, '../.cache')

/** Gets the text to train on, as tokens: from the user's files, the cache, or the network. */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, mirror, sequenceLength, train = true } = options
  if (mirror !== undefined && data !== wikitextName) {
    throw new UserError(`--mirror names a source of ${wikitextName}: it takes --data ${wikitextName} too.`)
  }
  if (!train) {
    const tokenizer = tokenizerOf(options.tokenizer ?? (data === wikitextName ? gpt2.name : bytes.name))
    const none = new Uint8Array()
    return { name: data ?? '', train: none, validation: none, tokenizer, bytesPerToken: 1, fingerprint: '' }
  }
  const { cacheFolder = projectCache } = options
  for (const name of ['.', 'tokens', noteFolder]) await removeLeftovers(join(cacheFolder, name))
  const corpus = await readCorpus(options)
  const halves = { train: 'to train on', validation: 'to validate with' } as const
  for (const half of ['train', 'validation'] as const) {
    const { length } = corpus[half]
    if (length > sequenceLength) continue
    throw new UserError(
      `${corpus.name} is too short to train on: its ${length} tokens ${halves[half]} do not fill one window of ` +
        `${sequenceLength + 1}. It takes more text, or a shorter sequence length.`,
    )
  }
  return corpus
}

async function readCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, cacheFolder = projectCache, inMemory = inMemoryByDefault(), report, screen } = options
  const tokenizer = options.tokenizer === undefined ? undefined : tokenizerOf(options.tokenizer)
  const folder = data !== undefined && data !== wikitextName && (await isFolder(data)) ? data : undefined
  if (folder !== undefined) {
    const ready = await openTokenFolder(folder, (tokenizer ?? gpt2).vocabularySize, {
      inMemory,
      cacheFolder,
      report,
      screen,
    })
    if (ready) {
      const bytesPerToken = tokenizer === bytes ? 1 : countBytes(ready.validation) / ready.validation.length
      const { name, train, validation, files } = ready
      const { content, verify } = await contentOfAll(files, options)
      await verify()
      return {
        name,
        train,
        validation,
        tokenizer: tokenizer ?? gpt2,
        bytesPerToken,
        fingerprint: fingerprintOf(content),
      }
    }
  }
  if (data === wikitextName)
    return await tokenized(openWikitext({ ...options, cacheFolder }), tokenizer ?? gpt2, options)
  const source =
    data === undefined
      ? await openStateOfTheUnion(cacheFolder, options.report)
      : folder !== undefined
        ? await openFolder(folder)
        : await openFile(data, options.sequenceLength)
  return await tokenized(source, tokenizer ?? bytes, options)
}

async function openFile(path: string, sequenceLength: number): Promise<Source> {
  const extension = extname(path).toLowerCase()
  if (extension === '.parquet') return await openParquetFile(path)
  if (extension === '.zip') return await openZipFile(path)
  return await openTextFile(path, sequenceLength)
}

async function tokenized(source: Source, tokenizer: Tokenizer, options: CorpusOptions): Promise<Corpus> {
  const { name, version } = source
  const { content, verify } =
    typeof version === 'string'
      ? { content: version, verify: async () => {} }
      : await contentOfAll(version, options)
  const read = tokenizer === bytes ? bytesOf : gpt2TokensOf
  const train = await read(source, 'train', { ...options, content, verify })
  const validation = await read(source, 'validation', { ...options, content, verify })
  await verify()
  const fingerprint = fingerprintOf(content)
  const bytesPerToken = validation.bytes / validation.tokens.length
  return { name, train: train.tokens, validation: validation.tokens, tokenizer, bytesPerToken, fingerprint }
}

/** What files contain, as their hashes, and what throws a UserError once it is something else. */
async function contentOfAll(files: readonly LocalFile[], options: CorpusOptions): Promise<Known> {
  const { cacheFolder = projectCache } = options
  const hashes: string[] = []
  for (const file of files) hashes.push(await contentOf(file, cacheFolder, options))
  return {
    content: hashes.join(),
    async verify() {
      for (const [i, file] of files.entries()) await refuseChanged(file, hashes[i] ?? '', options)
    },
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const fingerprintOf = (content: string): string => sha256(content).slice(0, 16)

type Half = 'train' | 'validation'

/** What stands for the content of a source, and what throws a UserError once that is another. */
type Known = { content: string; verify: () => Promise<void> }

/** One half of a text as bytes: in memory if it is short, else read from its own file, or from one in the cache. */
async function bytesOf(source: Source, half: Half, options: CorpusOptions & Known): Promise<Counted> {
  const { inMemory = inMemoryByDefault() } = options
  const text = source[half]
  if (text.size <= inMemory) {
    const whole = await readShort(text, inMemory)
    if (whole) return { tokens: whole, bytes: whole.length }
  }
  if (text.place) {
    const { path, start, end } = text.place
    const length = end - start
    return { tokens: openWindows(await openRegular(path), { path, start, length, width: 1 }), bytes: length }
  }
  return await cachedTokens(source, half, unpacking, options, async function* (progress) {
    let done = 0
    for await (const piece of text.pieces()) {
      done += piece.length
      yield piece
      progress(done)
    }
  })
}

/** One half of a text as GPT-2 tokens. */
async function gpt2TokensOf(source: Source, half: Half, options: CorpusOptions & Known): Promise<Counted> {
  return await cachedTokens(source, half, tokenizing, options, progress =>
    tokenize(source[half], { progress }),
  )
}

/** How tokens are made, and what that is called. */
type Making = { tokenizer: Tokenizer; doing: string; does: string }

const unpacking: Making = { tokenizer: bytes, doing: 'Unpacking', does: 'unpacks' }
const tokenizing: Making = { tokenizer: gpt2, doing: 'Tokenizing', does: 'tokenizes' }

/** One half of a text as tokens: from their file in the cache, else made and put there. */
async function cachedTokens(
  source: Source,
  half: Half,
  { tokenizer, doing, does }: Making,
  options: CorpusOptions & Known,
  makeTokens: (progress: (bytes: number) => void) => AsyncIterable<TokenArray>,
): Promise<Counted> {
  const { cacheFolder = projectCache, inMemory = inMemoryByDefault(), report, screen } = options
  const { content, verify } = options
  const readable = basename(source.place)
    .replaceAll(/[^\w.-]/g, '_')
    .slice(0, 80)
  const file = `${readable}-${sha256(source.place).slice(0, 8)}.${tokenizer.name}.${half}.bin`
  const path = join(cacheFolder, 'tokens', file)
  const what = {
    corpus: source.name,
    text: sha256(`${source.place} ${content}`),
    tokenizer: tokenizer.name,
  }
  const read = async () => await readTokenFile(path, what, { inMemory, cacheFolder, report, screen })
  const waiting = () => report?.(`Another process ${does} ${source.name}: waiting for it.`)
  return (await read()) ?? (await inTurn(path, async () => (await read()) ?? (await make()), { waiting }))

  async function make(): Promise<Counted> {
    const { size } = source[half]
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
    if (!made)
      throw new UserError(`${path} did not come back from the disk as it was written: look at the disk.`)
    return made
  }
}

function tokenizerOf(name: string): Tokenizer {
  return name === 'gpt2' ? gpt2 : bytes
}
