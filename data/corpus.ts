/** Loads the text that a run trains on, as tokens. */
import { createHash } from 'node:crypto'
import { freemem } from 'node:os'
import { join, resolve } from 'node:path'
import { UserError } from '../common/errors.ts'
import type { Screen } from '../common/progress.ts'
import { tidyCache } from './cache/cache-file.ts'
import { contentOf, noteFolder, refuseChanged } from './cache/content.ts'
import type { Patience } from './sources/download.ts'
import type { LocalFile } from './sources/local-file.ts'
import { checkMirror, findSource, namedDataset } from './sources/registry.ts'
import type { Source, Split } from './sources/text.ts'
import type { Edition } from './sources/wikitext.ts'
import { countBytes, gpt2 } from './tokens/gpt2.ts'
import { tokenFolderName, tokensOf } from './tokens/token-cache.ts'
import { bytes, type Tokenizer, type Tokens } from './tokens/tokenizer.ts'

/** A text to train on, as token ids. */
export type Corpus = {
  /** What the run's header calls it. */
  name: string
  train: Tokens
  /** Held out: the network is evaluated on it and never trained on it. */
  validation: Tokens
  tokenizer: Tokenizer
  /** Average bytes of validation text per token, which turns nats per token into bits per byte. */
  bytesPerToken: number
  /** Identifies the content of both splits, wherever the files are; a resumed run compares it. Empty without a text. */
  fingerprint: string
}

export type CorpusOptions = {
  /** A dataset by name, or a file or folder. By default the State of the Union addresses. */
  data?: string | undefined
  /** By default the usual one for the data: gpt2 for wikitext-103 and nanoGPT's files, otherwise bytes. */
  tokenizer?: string | undefined
  /** Another URL to download wikitext-103 from. */
  mirror?: string | undefined
  /** Tokens in a training window. A text that does not fill one is refused. */
  sequenceLength: number
  /** false: only the tokenizer is needed, so the text is not loaded and both splits are empty. */
  train?: boolean | undefined
  /** Where downloads and tokens are kept. */
  cacheFolder?: string | undefined
  /** Called with messages about what takes a while. */
  report?: ((message: string) => void) | undefined
  /** The largest size in bytes at which a split is held in memory; of a larger one, windows are read from its file. */
  inMemory?: number | undefined
  /** Where progress is drawn. */
  screen?: Screen | undefined
  /** Which WikiText; the tests use small ones. */
  edition?: Edition | undefined
  patience?: Patience | undefined
}

/** What --tokenizer takes. */
export const tokenizerNames = ['bytes', 'gpt2'] as const

/** Enough for WikiText-103 as GPT-2 tokens, unless the machine has little memory. */
const usualInMemory = () => Math.min(2 ** 28, (process.availableMemory?.() ?? freemem()) / 16)
const projectCache = resolve(import.meta.dirname, '../.cache')

/**
 * Loads the text to train on, from the user's files, the cache or the network. Throws a UserError if there is no such
 * text, or if a split does not fill one training window.
 */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { data, mirror, sequenceLength, train = true } = options
  checkMirror(data, mirror)
  if (!train) {
    const tokenizer = tokenizerOf(options.tokenizer) ?? namedDataset(data)?.tokenizer ?? bytes
    const none = new Uint8Array()
    return { name: data ?? '', train: none, validation: none, tokenizer, bytesPerToken: 1, fingerprint: '' }
  }
  const { cacheFolder = projectCache } = options
  for (const name of ['.', tokenFolderName, noteFolder]) await tidyCache(join(cacheFolder, name))
  const corpus = await readCorpus({ ...options, cacheFolder })
  const purposes = { train: 'to train on', validation: 'to validate with' } as const
  for (const split of ['train', 'validation'] as const) {
    const { length } = corpus[split]
    if (length > sequenceLength) continue
    throw new UserError(
      `${corpus.name} is too short to train on: its ${length} tokens ${purposes[split]} do not fill one window of ` +
        `${sequenceLength + 1}. It takes more text, or a shorter sequence length.`,
    )
  }
  return corpus
}

type ReadOptions = CorpusOptions & { cacheFolder: string }

async function readCorpus(options: ReadOptions): Promise<Corpus> {
  const { inMemory = usualInMemory() } = options
  const { tokenizer: usual, open } = await findSource(options.data)
  const tokenizer = tokenizerOf(options.tokenizer) ?? usual
  const source = await open({ ...options, tokenizer, inMemory })
  const { content, verify } = await contentOfSource(source, options)
  const { train, validation, bytesPerToken } = await read(source)
  await verify()
  return {
    name: source.name,
    train,
    validation,
    tokenizer,
    bytesPerToken,
    fingerprint: fingerprintOf(content),
  }

  async function read(source: Source): Promise<Record<Split, Tokens> & { bytesPerToken: number }> {
    if ('tokens' in source) {
      const { train, validation } = source.tokens
      const bytesPerToken = tokenizer === bytes ? 1 : countBytes(validation) / validation.length
      return { train, validation, bytesPerToken }
    }
    const how = { ...options, inMemory, content, verify }
    const train = await tokensOf(source, 'train', tokenizer, how)
    const validation = await tokensOf(source, 'validation', tokenizer, how)
    const bytesPerToken = validation.bytes / validation.tokens.length
    return { train: train.tokens, validation: validation.tokens, bytesPerToken }
  }
}

/** Text that identifies the content of a source, and a function that throws a UserError if the content changes. */
async function contentOfSource(
  { version }: Source,
  options: ReadOptions,
): Promise<{ content: string; verify: () => Promise<void> }> {
  if (typeof version === 'string') return { content: version, verify: async () => {} }
  const hashed: { file: LocalFile; hash: string }[] = []
  for (const file of version) hashed.push({ file, hash: await contentOf(file, options.cacheFolder, options) })
  return {
    content: hashed.map(({ hash }) => hash).join(),
    async verify() {
      for (const { file, hash } of hashed) await refuseChanged(file, hash, options)
    },
  }
}

const fingerprintOf = (content: string): string =>
  createHash('sha256').update(content).digest('hex').slice(0, 16)

const tokenizerOf = (name: string | undefined): Tokenizer | undefined =>
  name === undefined ? undefined : name === gpt2.name ? gpt2 : bytes
