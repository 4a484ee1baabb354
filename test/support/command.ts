/** Runs experiments as their users do: main.ts, or the one named first, on a text and a network so small that it takes a moment. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const project = resolve(import.meta.dirname, '../..')
const script = ['--import', './run/node.js', 'run/start.ts']

/** A folder with a text in it, in which the runs of a test go. */
export function makeFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
  const [text, runs] = [join(folder, 'text.txt'), join(folder, 'runs')]
  writeFileSync(text, 'the quick brown fox jumps over the lazy dog. '.repeat(200))
  const tiny =
    '--net.dim 24 --net.blocks 1 --net.keyDim 4 --net.ngramRows 16,16,16 --batch.tokens 64 ' +
    '--batch.firstLength 8 --batch.length 16 --evaluation.tokens 64 --sample 30 --device cpu'
  return {
    folder,
    runs,
    fresh: ['--data', text, '--runs', runs, ...tiny.split(' ')],
    again: ['--runs', runs],
  }
}

/** Runs it to its end. */
export function main(args: readonly string[], first: readonly string[] = []) {
  const [file, ...rest] = [...first, process.execPath, ...script, ...args]
  return spawnSync(file, rest, { cwd: project, encoding: 'utf8', timeout: 60_000 })
}

export const start = (args: readonly string[]): ChildProcess =>
  spawn(process.execPath, [...script, ...args], { cwd: project, stdio: ['ignore', 'pipe', 'inherit'] })

/** Waits for a process, and kills it with SIGKILL when it takes longer: then null. */
export async function endOrKill(child: ChildProcess, milliseconds: number): Promise<number | null> {
  const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds)
  const [code]: (number | null)[] = await once(child, 'exit')
  clearTimeout(timer)
  return code
}

/** The rows of a table, without what is time or speed. */
export const rowsOf = (output: string): string[] =>
  output
    .split('\n')
    .filter(line => /^\| *\d/.test(line))
    .map(line => line.split('|').slice(1, 10).join('|'))

/** The steps of a run's checkpoints, and the sha256 of the last one's tensors. */
export function checkpointsOf(run: string) {
  const folder = join(run, 'checkpoints')
  const names = readdirSync(folder)
  const steps = names
    .flatMap(name => Number(/^step-(\d+)\.json$/.exec(name)?.[1] ?? NaN))
    .filter(Number.isFinite)
  const last = Math.max(...steps)
  const tensors = readFileSync(join(folder, `step-${last}.safetensors`))
  return {
    names,
    steps: steps.sort((a, b) => a - b),
    last,
    hash: createHash('sha256').update(tensors).digest('hex'),
  }
}
