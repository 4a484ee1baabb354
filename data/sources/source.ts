/** What a dataset and a file format are to the registry. */
import type { Screen } from '../../common/progress.ts'
import type { Tokenizer } from '../tokens/tokenizer.ts'
import type { Patience } from './download.ts'
import type { Source } from './text.ts'

export type OpenOptions = {
  /** The tokenizer of the run; files that contain tokens are checked against it. */
  tokenizer: Tokenizer
  /** Tokens in a training window. */
  sequenceLength: number
  cacheFolder: string
  /** The largest size in bytes at which a split is held in memory. */
  inMemory: number
  /** Another URL to download a dataset from. */
  mirror?: string | undefined
  /** Called with messages about what takes a while. */
  report?: ((message: string) => void) | undefined
  /** Where progress is drawn. */
  screen?: Screen | undefined
  patience?: Patience | undefined
}

/** A text that --data takes by name, or the one that is used without --data. */
export type Dataset = {
  name: string
  /** The tokenizer that is used without --tokenizer. */
  tokenizer: Tokenizer
  /** Whether --mirror may name another URL to download it from. */
  hasMirrors?: boolean
  open(options: OpenOptions): Source | Promise<Source>
}

/** A kind of file or folder that --data takes. */
export type Format = {
  tokenizer: Tokenizer
  /** Whether a file or folder is of this kind. */
  matches(path: string, isFolder: boolean): boolean | Promise<boolean>
  open(path: string, options: OpenOptions): Promise<Source>
}
