/** Describes the code and the machine that a run depends on. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { join, relative, resolve } from 'node:path'

const project = resolve(import.meta.dirname, '../..')

/** The script that this process runs, relative to the project's folder: main.ts. */
export const scriptName = (): string => relative(project, process.argv[1] ?? 'main.ts').replaceAll('\\', '/')

/** What the results and the speed of a run depend on, besides its options. */
export function environment(): Record<string, string> & { readonly script: string; readonly code: string } {
  const processors = cpus()
  return {
    script: scriptName(),
    code: codeVersion(),
    commit: commit() ?? 'unknown',
    node: process.version,
    system: `${process.platform} ${process.arch}`,
    processor: `${processors.length} × ${processors[0]?.model.trim() ?? 'unknown'}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
  }
}

/** A hash of the code that determines the results: the script, the engine and the data. */
export function codeVersion(): string {
  const hash = createHash('sha256')
  const files = ['engine', 'data', 'baselines'].flatMap(folder =>
    readdirSync(join(project, folder), { recursive: true, encoding: 'utf8' }).map(name => join(folder, name)),
  )
  for (const name of [scriptName(), ...files.toSorted()]) {
    if (/\.[jt]s$/.test(name)) hash.update(`${name}\0`).update(readFileSync(resolve(project, name)))
  }
  return hash.digest('hex').slice(0, 12)
}

function commit(): string | undefined {
  try {
    const args = ['describe', '--always', '--dirty', '--abbrev=10']
    return execFileSync('git', args, {
      cwd: project,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  } catch {
    return undefined // git is not installed, or this is not a clone
  }
}
