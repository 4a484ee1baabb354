import { open, readFile } from 'node:fs/promises'
import { writeWhole } from './whole-file.ts'

/** A row of the table, by the names of its columns, and how far the run was. */
export type MetricsRow = {
  readonly [name: string]: number | undefined
  readonly step: number
  readonly seconds: number
  readonly tokens: number
  readonly trainLoss: number
  /** Only where the network was measured on the validation text. */
  readonly valLoss?: number | undefined
}

/** A row with a validation loss. */
export type Evaluation = MetricsRow & { readonly valLoss: number }

/** The rows that have a validation loss. */
export const evaluationsIn = (rows: readonly MetricsRow[]): Evaluation[] =>
  rows.filter((row): row is Evaluation => row.valLoss !== undefined)

/** Adds a line to a metrics.jsonl; it is on the disk when this returns. */
export async function appendRow(path: string, row: MetricsRow): Promise<void> {
  const file = await open(path, 'a')
  try {
    await file.writeFile(`${JSON.stringify(row)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The rows in a metrics.jsonl; none where there is no such file. */
export async function readRows(path: string): Promise<MetricsRow[]> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.split('\n').flatMap(line => parseLine(line) ?? [])
}

/** Takes back what came after a step: a run that goes on from there finds it anew. */
export async function rewind(path: string, step: number): Promise<MetricsRow[]> {
  const kept = (await readRows(path)).filter(row => row.step <= step)
  await writeWhole(path, kept.map(row => `${JSON.stringify(row)}\n`).join(''))
  return kept
}

/** A run that was killed may leave half a line behind. */
function parseLine(line: string): MetricsRow | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return isRow(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isRow(value: unknown): value is MetricsRow {
  const needed = ['step', 'seconds', 'tokens', 'trainLoss']
  return typeof value === 'object' && value !== null && needed.every(name => name in value)
}
