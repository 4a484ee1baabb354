import type { Backend, StepTime } from '../engine/index.ts'
import { headerText } from './terminal/header.ts'
import type { Flag } from './options/options.ts'

/** The option of scripts that can say where their time goes. */
export const profileFlags = {
  profile: { type: 'boolean', default: false, help: 'times the kernels of a step instead of training' },
} as const satisfies Record<string, Flag>

/** Steps that are timed: of each kernel's times the shortest counts. More than one while they are quick. */
const mostSteps = 5
const enoughSeconds = 5

/** Times the kernels of a step, given as one part or several, prints them as a table, and ends the process. */
export async function profileStep(
  backend: Backend,
  ...parts: readonly (() => Promise<StepTime[]>)[]
): Promise<never> {
  const start = performance.now()
  const times: StepTime[][] = []
  while (times.length < mostSteps && performance.now() - start < enoughSeconds * 1000) {
    const step: StepTime[] = []
    for (const part of parts) step.push(...(await part()))
    times.push(step)
  }
  const [first, ...others] = times
  const shortest = first.map((time, i) =>
    others.reduce((best, step) => (step[i].milliseconds < best.milliseconds ? step[i] : best), time),
  )
  console.log(headerText({ backend: backend.description, peak: `${backend.peakGflops.toFixed(0)} GFLOP/s` }))
  console.log(kernelTable(shortest))
  await backend.close()
  process.exit(0)
}

/** Kernels and what they took, those that took longest first; equal ones are one line, and their sum is the last. */
export function kernelTable(times: readonly StepTime[]): string {
  const all = sumOf(times)
  const kernels = [...Map.groupBy(times, ({ kernels }) => kernels.join(' + '))]
    .map(([name, equal]) => ({ name, count: equal.length, ...sumOf(equal) }))
    .toSorted((a, b) => b.milliseconds - a.milliseconds)
  const rows = [...kernels, { name: 'in all', count: times.length, ...all }].map(
    ({ name, count, milliseconds, flops, bytes }) => [
      milliseconds.toFixed(3),
      ((100 * milliseconds) / all.milliseconds).toFixed(1),
      String(count),
      flops > 0 ? (flops / milliseconds / 1e6).toFixed(1) : '',
      (bytes / milliseconds / 1e6).toFixed(1),
      name,
    ],
  )
  const lines = [['ms', '%', 'times', 'GFLOP/s', 'GB/s', 'kernel'], ...rows]
  const widths = lines[0].slice(0, -1).map((_, i) => Math.max(...lines.map(line => line[i].length)))
  return lines
    .map(line => line.map((cell, i) => (i < widths.length ? cell.padStart(widths[i]) : cell)).join('  '))
    .join('\n')
}

const sumOf = (times: readonly StepTime[]) => ({
  milliseconds: total(times.map(({ milliseconds }) => milliseconds)),
  flops: total(times.map(({ flops }) => flops)),
  bytes: total(times.map(({ bytes }) => bytes)),
})

const total = (numbers: readonly number[]): number => numbers.reduce((sum, number) => sum + number, 0)
