/**
 * The .json of a checkpoint: how far the run was, and a copy of what else --resume takes from the run's folder, all of it
 * under one checksum.
 */
import { join } from 'node:path'
import { type Config, configOf, keptArguments } from '../record/config.ts'
import { isRecord, numberOf } from '../../common/json.ts'
import { type MetricsRow, rowOf } from '../record/metrics.ts'
import { dottedNames } from '../../common/nearest-name.ts'
import { namesInOwn, readOwn } from '../folders/own-file.ts'
import { unseal } from '../../common/sealed-json.ts'

/** What every run counts. */
const counters = ['step', 'tokens', 'seconds', 'flops']

export type Notes = {
  readonly step: number
  /** The run's counters, and what its schedules remember. */
  readonly at: Readonly<Record<string, number>>
  /** Of the file of tensors. */
  readonly sha256: string
  /** What config.json said; undefined in a checkpoint of an early version, which has `arguments` and `code` alone. */
  readonly config: Config | undefined
  /** The rows of metrics.jsonl; undefined in a checkpoint of an early version. */
  readonly rows: readonly MetricsRow[] | undefined
  readonly arguments: readonly string[]
  readonly code: string | undefined
}

/** The files of a step's checkpoint. */
export const checkpointFiles = (folder: string, step: number) => ({
  json: join(folder, `step-${step}.json`),
  tensors: join(folder, `step-${step}.safetensors`),
})

/** The steps that have a checkpoint, the last one first. Throws UserError if the folder cannot be read. */
export async function stepsIn(folder: string): Promise<number[]> {
  const steps = (await namesInOwn(folder)).flatMap(name => {
    const step = Number(/^step-(\d+)\.json$/.exec(name)?.[1] ?? NaN)
    return Number.isSafeInteger(step) && name === `step-${step}.json` ? step : []
  })
  return steps.toSorted((a, b) => b - a)
}

/**
 * The notes of a step's checkpoint; or in words, such as "is damaged", why there are none. Throws UserError if the file
 * cannot be read.
 */
export async function readNotes(folder: string, step: number): Promise<Notes | string> {
  const text = await readOwn(checkpointFiles(folder, step).json)
  if (text === undefined) return 'is missing'
  const unsealed = unseal(text)
  if (typeof unsealed === 'string') return unsealed
  const notes = unsealed.isSealed ? notesOf(unsealed.content, step) : undefined
  return notes ?? 'is damaged'
}

/** The notes of the last checkpoint that has whole ones. What cannot be read is passed over. */
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

/** A group of numbers; undefined if one of them is none. */
function numbersIn(value: unknown): Record<string, number> | undefined {
  if (!isRecord(value)) return undefined
  const entries = Object.entries(value).map(([name, part]) => [name, numberOf(part)] as const)
  const numbers = entries.flatMap(([name, number]) => (number === undefined ? [] : [[name, number] as const]))
  return numbers.length === entries.length ? Object.fromEntries(numbers) : undefined
}
