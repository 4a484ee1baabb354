/** --explain and --profile, as their users run them. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { test } from 'node:test'
import { main, makeFolder } from '../support/command.ts'

const { fresh, runs } = makeFolder()
const project = resolve(import.meta.dirname, '../..')

interface Line {
  file: string
  line: number
  function: string
  gradient: boolean
  share: number
}

interface Explained {
  programs: {
    name: string
    flops: number
    bytesMoved: number
    steps: {
      milliseconds?: number
      barrier: boolean
      kernels: {
        words: string
        lines: Line[]
        flops: number
        bytes: number
        reads: string[]
        writes: unknown[]
      }[]
    }[]
  }[]
  lines: { file?: string; function: string; total: { milliseconds: number | null; flops: number } }[]
}

/** What an experiment prints as JSON, and nothing but that. */
function json(args: readonly string[]): Explained {
  const { stdout, stderr, status } = main(args)
  assert.equal(status, 0, stderr)
  // The shape is what the tests look at.
  return JSON.parse(stdout) as Explained
}

const kernelsOf = ({ programs }: Explained) =>
  programs.flatMap(({ steps }) => steps.flatMap(({ kernels }) => kernels))
const sum = (numbers: readonly number[]) => numbers.reduce((all, number) => all + number, 0)

test('--explain prints the kernels of a step in order, and leaves no run', () => {
  const { stdout, stderr, status } = main(['--explain', ...fresh])
  assert.equal(status, 0, stderr)
  assert.match(stdout, /^ +\d+ {2}attention 4×16, .* [kM]?FLOP, /m)
  assert.match(stdout, /^ +∂ +\d+ {2}block +const mixed = attend\(/m)
  assert.match(stdout, /^ +\d+ {2}muon +const square = rows > columns/m)
  assert.match(stdout, /^ +reads +.*blocks\.0\.expand/m)
  assert.match(stdout, /^ +writes +blocks\.0\.expand \(assigned\)$/m)
  assert.match(stdout, /FLOP .* train in all$/m)
  const tooWide = stdout.split('\n').filter(line => line.length > 100)
  assert.deepEqual(tooWide, [])
  assert(!existsSync(runs))
})

test('--explain --json: each kernel comes from lines of the script, and together they do what the program does', () => {
  const explained = json(['--explain', '--json', ...fresh])
  const count = readFileSync(resolve(project, 'main.ts'), 'utf8').split('\n').length
  const kernels = kernelsOf(explained)
  for (const { words, lines } of kernels) {
    assert(lines.length > 0, words)
    assert(Math.abs(sum(lines.map(({ share }) => share)) - 1) < 1e-9, words)
    for (const { file, line } of lines) {
      assert.equal(file, 'main.ts', words)
      assert(line >= 1 && line <= count, words)
    }
  }
  const [{ flops, bytesMoved, steps }] = explained.programs
  assert.equal(sum(kernels.map(kernel => kernel.flops)), flops)
  assert.equal(sum(kernels.map(({ bytes }) => bytes)), bytesMoved)
  assert(steps.some(({ barrier }) => barrier) && steps.some(({ barrier }) => !barrier))
  assert(Math.abs(sum(explained.lines.map(({ total }) => total.flops)) - flops) < 1e-6 * flops)
  const gradients = kernels.flatMap(({ lines }) => lines).filter(({ gradient }) => gradient)
  assert(gradients.length > 0)
  // Attention has a gradient, and an optimizer has none.
  assert(gradients.some(line => line.function === 'block'))
  assert(!gradients.some(line => line.function === 'muon' || line.function === 'adamW'))
})

test('--profile times kernels in the same words, and lines', () => {
  const { stdout, stderr, status } = main(['--profile', ...fresh])
  assert.equal(status, 0, stderr)
  assert.match(stdout, /ms +% +times +GFLOP\/s +GB\/s +kernel +line of main\.ts$/m)
  assert.match(stdout, /^ *[\d.]+ +[\d.]+ +1 .* attention gradient 4×16, .* ∂\d+ block$/m)
  assert.match(stdout, /ms +% +forward +gradient +function, line of main\.ts$/m)
  assert.match(stdout, /^ *[\d.]+ +[\d.]+ +[\d.]+ +muon$/m)
  assert.match(stdout, /^ *[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ {4}\d+ {2}const mixed = attend/m)
  assert.doesNotMatch(stdout, /rows\.\w{8}/)
  const tooWide = stdout.split('\n').filter(line => line.length > 100)
  assert.deepEqual(tooWide, [])
})

test('--profile --json: times of the steps, divided among the lines', () => {
  const profiled = json(['--profile', '--json', ...fresh])
  const times = profiled.programs.flatMap(({ steps }) => steps.map(({ milliseconds = NaN }) => milliseconds))
  assert(times.every(time => time >= 0))
  const byLine = sum(profiled.lines.map(({ total }) => total.milliseconds ?? NaN))
  assert(Math.abs(byLine - sum(times)) < 1e-6 * byLine, `${byLine} and ${sum(times)}`)
})

test('both baselines can be explained: two functions, each with its name', () => {
  const { stdout, stderr, status } = main([
    'baselines/hlb-gpt-0.1.ts',
    '--explain',
    '--data',
    fresh[1],
    '--device',
    'cpu',
    '--runs',
    runs,
    ...'--net.dim 24 --net.blocks 1 --net.heads 2 --batch.length 16 --batch.sequences 2'.split(' '),
  ])
  assert.equal(status, 0, stderr)
  assert.match(stdout, /^accumulate$/m)
  assert.match(stdout, /^update$/m)
  assert.match(stdout, /^ +writes +optimizer\..*\.momentum \(assigned\)/m)
})

test('--json alone is refused in a sentence', () => {
  const { stderr, status } = main(['--json', ...fresh])
  assert.notEqual(status, 0)
  assert.match(stderr, /--json goes with --explain or --profile\./)
})
