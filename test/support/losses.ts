/** main.ts's network trained on the CPU and on a GPU, from the same weights and on the same batches. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { type Evaluation, evaluationsIn, readRows } from '../../run/record/metrics.ts'
import type { Driver } from './adapter.ts'

const project = resolve(import.meta.dirname, '../..')

/** Trains for so many steps on each device, and prints the losses of training and of validation side by side. */
export async function compareLosses(
  driver: Driver,
  { hasHalf, steps, tokens }: { hasHalf: boolean; steps: number; tokens: number },
): Promise<void> {
  const devices: readonly (readonly [name: string, ...options: string[]])[] = [
    ['CPU', '--device', 'cpu'],
    ['GPU, f32', '--device', 'gpu', '--precision', 'f32'],
    ...(hasHalf ? [['GPU, f16', '--device', 'gpu', '--precision', 'f16'] as const] : []),
  ]
  const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
  const columns: { name: string; evaluations: Evaluation[] }[] = []
  try {
    for (const [name, ...options] of devices) {
      console.log(`training on the ${name}`)
      const run = name.replaceAll(/\W+/g, '-')
      const given = [
        ['--run', run],
        ['--runs', folder],
        ['--steps', `${steps}`],
        ['--batch.tokens', `${tokens}`],
        ['--evaluation.every', `${1 / steps}`],
        ['--evaluation.tokens', '2048'],
        ['--sample', '0'],
        ['--checkpoint', '0'],
      ]
      const command = [...process.execArgv, 'main.ts', ...options, ...given.flat()]
      await promisify(execFile)(driver.node, command, {
        cwd: project,
        env: { ...process.env, ...driver.environment },
      })
      columns.push({ name, evaluations: evaluationsIn(await readRows(join(folder, run, 'metrics.jsonl'))) })
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  print(columns)
}

function print(columns: readonly { name: string; evaluations: readonly Evaluation[] }[]): void {
  const [{ evaluations: expected }] = columns
  const width = 20
  const row = (first: string, cells: readonly string[]) =>
    console.log([first.padStart(5), ...cells.map(cell => cell.padStart(width))].join(''))
  row(
    'step',
    columns.map(({ name }) => name),
  )
  row(
    '',
    columns.map(() => 'training validation'),
  )
  expected.forEach(({ step }, i) => {
    if (step % 5 > 0 && step > 5) return
    const pair = ({ trainLoss, valLoss }: Evaluation) => `${trainLoss.toFixed(5)}  ${valLoss.toFixed(5)}`
    row(
      `${step}`,
      columns.map(({ evaluations }) => pair(evaluations[i])),
    )
  })
  const worst = (evaluations: readonly Evaluation[]) =>
    Math.max(...evaluations.map(({ trainLoss }, i) => Math.abs(trainLoss / expected[i].trainLoss - 1)))
  row(
    'off',
    columns.map(({ evaluations }) => worst(evaluations).toExponential(1)),
  )
}
