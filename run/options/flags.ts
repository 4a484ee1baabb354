import { tokenizerNames } from '../../data/corpus.ts'
import { deviceFlags } from '../device.ts'
import type { Flag, FlagValues, Hyperparameters } from './options.ts'
import { profileFlags } from '../profile.ts'

/** The options of every script that trains, beside its own. */
export const runFlags = {
  data: { type: 'string', value: 'TEXT', help: 'wikitext-103, a file or a folder (State of the Union)' },
  tokenizer: { type: 'string', choices: tokenizerNames, help: 'what a token is (bytes; of WikiText gpt2)' },
  mirror: { type: 'string', value: 'URL', help: 'where to get wikitext-103 from instead' },
  seed: { type: 'integer', default: 0, minimum: 0, help: 'of the first weights and the order of the data' },
  ...deviceFlags,
  memory: { type: 'string', value: 'SIZE', help: 'such as 4GB (three quarters of what is free)' },
  run: { type: 'string', value: 'NAME', help: 'name of the run (date and time)' },
  runs: { type: 'string', value: 'FOLDER', default: 'runs', help: 'where each run has a folder' },
  resume: { type: 'string', value: '[NAME]', help: 'go on with a run: with the newest, or the one named' },
  init: { type: 'string', value: 'FILE', help: 'first weights, from a .safetensors file' },
  checkpoint: { type: 'integer', default: 1, minimum: 0, help: 'evaluations to a checkpoint; 0 for none' },
  target: { type: 'number', help: 'stop once the validation loss is this low' },
  onNan: { type: 'string', choices: ['stop', 'go'], default: 'stop', help: 'when a loss is NaN or infinite' },
  repeat: {
    type: 'integer',
    default: 1,
    minimum: 1,
    maximum: 1000,
    help: 'seeds to run, and to compare at the end',
  },
  train: { type: 'boolean', default: true, help: '--no-train writes a sample from a run, and that is all' },
  ...profileFlags,
  log: { type: 'string', value: 'FILE', help: 'append every row of the table to FILE, as JSON lines' },
} as const satisfies Record<string, Flag>

/** What runFlags gives, and a script's own options. */
export type RunOptions = FlagValues<typeof runFlags> & {
  readonly hyperparameters: Hyperparameters
  readonly [own: string]: unknown
}
