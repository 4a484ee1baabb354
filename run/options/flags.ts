/** The options of every script that trains. */
import { tokenizerNames } from '../../data/corpus.ts'
import { deviceFlags } from '../device.ts'
import type { Flag, FlagValues, Hyperparameters } from './options.ts'
import { profileFlags } from '../profile.ts'

/** The options that scripts which train have in common. */
export const runFlags = {
  data: { type: 'string', value: 'TEXT', help: 'wikitext-103, a file or a folder (State of the Union)' },
  tokenizer: { type: 'string', choices: tokenizerNames, help: 'the tokenizer (bytes; for WikiText gpt2)' },
  mirror: { type: 'string', value: 'URL', help: 'another URL to download wikitext-103 from' },
  seed: {
    type: 'integer',
    default: 0,
    minimum: 0,
    help: 'seed of the initial weights and the order of the data',
  },
  ...deviceFlags,
  memory: {
    type: 'string',
    value: 'SIZE',
    help: 'memory limit, such as 4GB (three quarters of the free memory)',
  },
  run: { type: 'string', value: 'NAME', help: 'name of the run (date and time)' },
  runs: {
    type: 'string',
    value: 'FOLDER',
    default: 'runs',
    help: 'the folder that has a folder for each run',
  },
  resume: { type: 'string', value: '[NAME]', help: 'resume the newest run, or the one named' },
  init: { type: 'string', value: 'FILE', help: 'initial weights, from a .safetensors file' },
  checkpoint: {
    type: 'integer',
    default: 1,
    minimum: 0,
    help: 'evaluations between checkpoints; 0 for no checkpoints',
  },
  target: { type: 'number', help: 'stop once the validation loss is this low' },
  onNan: {
    type: 'string',
    choices: ['stop', 'go'],
    default: 'stop',
    help: 'what to do when a loss is NaN or infinite',
  },
  repeat: {
    type: 'integer',
    default: 1,
    minimum: 1,
    maximum: 1000,
    help: 'number of seeds to run and compare',
  },
  train: { type: 'boolean', default: true, help: '--no-train only writes a sample from a run' },
  ...profileFlags,
  log: { type: 'string', value: 'FILE', help: 'append every row of the table to FILE, as JSON lines' },
} as const satisfies Record<string, Flag>

/** The values of runFlags and of a script's own options. */
export type RunOptions = FlagValues<typeof runFlags> & {
  readonly hyperparameters: Hyperparameters
  readonly [own: string]: unknown
}
