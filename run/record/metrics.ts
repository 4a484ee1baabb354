/** The metrics.jsonl of a run, with a line of JSON for each row of its table. */
import { isRecord, numberOf, showJson } from '../../common/json.ts'
import { appendOwn, readOwn } from '../folders/own-file.ts'
import { writeWhole } from '../../common/whole-file.ts'

/** A row of the table, by the names of its columns, and the run's counters. */
export type MetricsRow = {
  readonly [name: string]: number | undefined
  readonly step: number
  readonly seconds: number
  readonly tokens: number
  readonly trainLoss: number
  /** Only in rows with an evaluation on the validation text. */
  readonly valLoss?: number | undefined
}

/** A row with a validation loss. */
export type Evaluation = MetricsRow & { readonly valLoss: number }

/** The rows that have a validation loss. */
export const evaluationsIn = (rows: readonly MetricsRow[]): Evaluation[] =>
  rows.filter((row): row is Evaluation => row.valLoss !== undefined)

/** The first evaluation with a finite loss at or below the target. */
export const firstToReach = (target: number, rows: readonly MetricsRow[]): Evaluation | undefined =>
  evaluationsIn(rows).find(({ valLoss }) => Number.isFinite(valLoss) && valLoss <= target)

/** The loss of a row that is NaN or infinite, in words such as "validation loss is NaN"; undefined if both are finite. */
export function whatDiverged({ trainLoss, valLoss = 0 }: MetricsRow): string | undefined {
  if (!Number.isFinite(trainLoss)) return `training loss is ${trainLoss}`
  return Number.isFinite(valLoss) ? undefined : `validation loss is ${valLoss}`
}

/** The first of the rows at the end whose losses are NaN or infinite; undefined if the last row's are finite. */
export const divergenceIn = (rows: readonly MetricsRow[]): MetricsRow | undefined =>
  rows[rows.findLastIndex(row => whatDiverged(row) === undefined) + 1]

/** Appends a row to a metrics.jsonl. It is on the disk when this returns. */
export const appendRow = (path: string, row: MetricsRow): Promise<void> => appendOwn(path, lineOf(row))

/** Replaces all rows of a metrics.jsonl. */
export const writeRows = (path: string, rows: readonly MetricsRow[]): Promise<void> =>
  writeWhole(path, rows.map(lineOf).join(''))

/**
 * The rows in a metrics.jsonl; none if there is no such file. Skips damaged lines and calls `warn` about them. Throws a
 * UserError if the file cannot be read.
 */
export async function readRows(
  path: string,
  warn: (message: string) => void = () => {},
): Promise<MetricsRow[]> {
  const lines = ((await readOwn(path)) ?? '').split('\n')
  const last = lines.length - 1
  const rows = lines.map(parseLine)
  // A run that was killed may leave an incomplete last line, without a line feed.
  const wrong = rows.flatMap((row, i) => (row === undefined && i < last ? i + 1 : []))
  if (wrong.length > 0) {
    const [which, are] = wrong.length === 1 ? ['Line', 'is'] : ['Lines', 'are']
    const shown = wrong.length > 6 ? [...wrong.slice(0, 6), '...'] : wrong
    warn(`${which} ${shown.join(', ')} of ${path} ${are} damaged and skipped.`)
  }
  return rows.filter(row => row !== undefined)
}

/** The row in a parsed JSON value; undefined if a member is not a number, or a required one is missing. */
export function rowOf(value: unknown): MetricsRow | undefined {
  if (!isRecord(value)) return undefined
  const row: Record<string, number> = {}
  for (const [name, part] of Object.entries(value)) {
    const number = numberOf(part)
    if (number === undefined) return undefined
    row[name] = number
  }
  const { step, seconds, tokens, trainLoss } = row
  const isCount = (count: number) => Number.isSafeInteger(count) && count >= 0
  const fits = isCount(step) && isCount(tokens) && Number.isFinite(seconds) && seconds >= 0
  return fits && trainLoss !== undefined ? { ...row, step, seconds, tokens, trainLoss } : undefined
}

const lineOf = (row: MetricsRow) => `${showJson(row)}\n`

function parseLine(line: string): MetricsRow | undefined {
  try {
    return rowOf(JSON.parse(line))
  } catch {
    return undefined
  }
}
