/**
 * The .json file of a checkpoint: the run's counters, and a copy of everything else in the run's folder that --resume
 * needs, under one checksum.
 */
import { join } from 'node:path'
import { type Config, configOf, keptArguments } from '../record/config.ts'
import { isRecord, numberOf } from '../../common/json.ts'
import { type MetricsRow, rowOf } from '../record/metrics.ts'
import { dottedNames } from '../../common/names.ts'
import { namesInOwn, readOwn } from '../folders/own-file.ts'
import { unseal } from '../../common/sealed-json.ts'

/** The counters that every run has. */
const counters = ['step', 'tokens', 'seconds', 'flops']

export type Notes = {
  readonly step: number
  /** The run's counters, and the state of its schedules. */
  readonly at: Readonly<Record<string, number>>
  /** The hash of the file of tensors. */
  readonly sha256: string
  /** A copy of config.json; undefined in checkpoints of early versions, which have only `arguments` and `code`. */
  readonly config: Config | undefined
  /** The rows of metrics.jsonl; undefined in checkpoints of early versions. */
  readonly rows: readonly MetricsRow[] | undefined
  readonly arguments: readonly string[]
  readonly code: string | undefined
}

/** The files of a step's checkpoint. */
export const checkpointFiles = (folder: string, step: number) => ({
  json: join(folder, `step-${step}.json`),
  tensors: join(folder, `step-${step}.safetensors`),
})

/** The steps that have a checkpoint, newest first. Throws a UserError if the folder cannot be read. */
export async function stepsIn(folder: string): Promise<number[]> {
  const steps = (await namesInOwn(folder)).flatMap(name => {
    const step = Number(/^step-(\d+)\.json$/.exec(name)?.[1] ?? NaN)
    return Number.isSafeInteger(step) && name === `step-${step}.json` ? step : []
  })
  return steps.toSorted((a, b) => b - a)
}

/**
 * The notes of a step's checkpoint; or words that say why there are none, such as "is damaged". Throws a UserError if the
 * file cannot be read.
 */
export async function readNotes(folder: string, step: number): Promise<Notes | string> {
  const text = await readOwn(checkpointFiles(folder, step).json)
  if (text === undefined) return 'is missing'
  const unsealed = unseal(text)
  if (typeof unsealed === 'string') return unsealed
  const notes = unsealed.isSealed ? notesOf(unsealed.content, step) : undefined
  return notes ?? 'is damaged'
}

/** The notes of the newest checkpoint whose notes are intact. Files that cannot be read are skipped. */
export async function lastNotes(folder: string): Promise<Notes | undefined> {
  for (const step of await stepsIn(folder).catch(() => [])) {
    const notes = await readNotes(folder, step).catch(() => undefined)
    if (typeof notes === 'object') return notes
  }
  return undefined
}

function notesOf(content: Readonly<Record<string, unknown>>, step: number): Notes | undefined {
  const { at, tensors, config, rows, options, hyperparameters, code } = content
  const position = numbersIn(at)
  const isCounted = counters.every(name => Number.isFinite(position?.[name]))
  if (!position || !isCounted || position.step !== step) return undefined
  if (!isRecord(tensors) || typeof tensors.sha256 !== 'string') return undefined
  const copy = isRecord(config) && typeof config.name === 'string' ? configOf(config, config.name) : undefined
  const history = Array.isArray(rows) ? rows.map(rowOf) : undefined
  if (typeof copy === 'string' || history?.includes(undefined)) return undefined
  const all = Object.entries({ ...dottedNames(options), ...dottedNames(hyperparameters) })
  return {
    step,
    at: position,
    sha256: tensors.sha256,
    config: copy,
    rows: history?.filter(row => row !== undefined),
    arguments: copy?.arguments ?? keptArguments(all.map(([name, value]) => `--${name}=${String(value)}`)),
    code: copy?.environment.code ?? (typeof code === 'string' ? code : undefined),
  }
}

/** The members of an object, if all of them are numbers. */
function numbersIn(value: unknown): Record<string, number> | undefined {
  if (!isRecord(value)) return undefined
  const entries = Object.entries(value).map(([name, part]) => [name, numberOf(part)] as const)
  const numbers = entries.flatMap(([name, number]) => (number === undefined ? [] : [[name, number] as const]))
  return numbers.length === entries.length ? Object.fromEntries(numbers) : undefined
}
