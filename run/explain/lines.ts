/** The lines of a script that kernels come from, and how a kernel's cost is divided among them. */
import { readFileSync } from 'node:fs'
import { basename, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { KernelCall, Origin } from '../../engine/index.ts'

/** A line of the script, and a share of something that belongs to it. */
export interface LineShare {
  readonly origin: Origin
  /** From 0 to 1; the shares of a kernel's lines add up to 1. */
  readonly share: number
}

/**
 * The lines that a kernel computes, in the order of the script, those whose gradients it computes last. A kernel's cost is
 * divided among them by the elements that their operations go through.
 */
export function linesOf({ instructions }: KernelCall): LineShare[] {
  const operations = instructions.flatMap(({ operations = [] }) => operations)
  const byLine = Map.groupBy(
    operations.flatMap(({ origin, elements }) => (origin ? [{ origin, elements: elements + 1 }] : [])),
    ({ origin: { file, line, isGradient } }) => `${file}:${line}:${isGradient}`,
  )
  const lines = [...byLine.values()].map(equal => ({
    origin: equal[0].origin,
    elements: equal.reduce((sum, { elements }) => sum + elements, 0),
  }))
  const all = lines.reduce((sum, { elements }) => sum + elements, 0)
  return lines
    .map(({ origin, elements }) => ({ origin, share: elements / all }))
    .sort((a, b) => compareOrigins(a.origin, b.origin))
}

/** By file and line; gradients last. */
export function compareOrigins(a: Origin, b: Origin): number {
  if (a.isGradient !== b.isGradient) return a.isGradient ? 1 : -1
  return a.file === b.file ? a.line - b.line : a.file < b.file ? -1 : 1
}

/** A file's path from the working directory; a name that is no URL of a file stays as it is. */
export const pathOf = ({ file }: Origin): string =>
  file.startsWith('file:') ? relative('', fileURLToPath(file)) : file

/** Shows lines: by number alone where all are of one file. */
export function placesOf(origins: readonly Origin[]): {
  /** The one file; undefined where there are several. */
  readonly file: string | undefined
  readonly placeOf: (origin: Origin) => string
} {
  const files = new Set(origins.map(({ file }) => file))
  const [first] = origins
  if (first && files.size === 1) return { file: pathOf(first), placeOf: ({ line }) => `${line}` }
  return { file: undefined, placeOf: origin => `${basename(pathOf(origin))}:${origin.line}` }
}

const files = new Map<string, readonly string[]>()

/** The text of a line, without its indentation; empty where the file cannot be read. */
export function sourceOf(origin: Origin): string {
  const path = pathOf(origin)
  const lines = files.get(path) ?? readLines(path)
  files.set(path, lines)
  return lines.at(origin.line - 1)?.trim() ?? ''
}

function readLines(path: string): readonly string[] {
  try {
    return readFileSync(path, 'utf8').split('\n')
  } catch {
    return []
  }
}
