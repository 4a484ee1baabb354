import { open, readFile } from 'node:fs/promises'
import { writeWhole } from './whole-file.ts'

/** What an evaluation found, by the names of the table's columns, and how far the run was. */
export type Evaluation = {
  readonly [name: string]: number
  readonly step: number
  readonly seconds: number
  readonly tokens: number
  readonly trainLoss: number
  readonly valLoss: number
}

/** Adds a line to a metrics.jsonl; it is on the disk when this returns. */
export async function appendEvaluation(path: string, evaluation: Evaluation): Promise<void> {
  const file = await open(path, 'a')
  try {
    await file.writeFile(`${JSON.stringify(evaluation)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The evaluations in a metrics.jsonl; none where there is no such file. */
export async function readEvaluations(path: string): Promise<Evaluation[]> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.split('\n').flatMap(line => parseLine(line) ?? [])
}

/** Takes back what came after a step: a run that goes on from there finds it anew. */
export async function rewind(path: string, step: number): Promise<Evaluation[]> {
  const kept = (await readEvaluations(path)).filter(evaluation => evaluation.step <= step)
  await writeWhole(path, kept.map(evaluation => `${JSON.stringify(evaluation)}\n`).join(''))
  return kept
}

/** A run that was killed may leave half a line behind. */
function parseLine(line: string): Evaluation | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return isEvaluation(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isEvaluation(value: unknown): value is Evaluation {
  const needed = ['step', 'seconds', 'tokens', 'trainLoss', 'valLoss']
  return typeof value === 'object' && value !== null && needed.every(name => name in value)
}
