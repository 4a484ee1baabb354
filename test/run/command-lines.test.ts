/**
 * Random command lines, from what the options take and from just outside of it: each trains, or says in one sentence
 * why not. COMMAND_LINES=200 in the environment tries so many, COMMAND_LINES=50:200 those from the 50th on.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { seeded } from '../support/reference.ts'

const [last, first = 0] = (process.env.COMMAND_LINES ?? '24').split(':').map(Number).toReversed()

const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
after(() => rmSync(folder, { recursive: true }))
const at = (name: string) => join(folder, name)
writeFileSync(at('text.txt'), 'the quick brown fox jumps over the lazy dog. '.repeat(100))
writeFileSync(at('short.txt'), 'too short')
writeFileSync(at('wrong.zip'), 'PK')
writeFileSync(at('wrong.parquet'), 'PAR1')
writeFileSync(at('wrong.safetensors'), '{}')
mkdirSync(at('folder.ts'))

const wrong = ['', 'x', '-1', '0.5', '1e12', '9007199254740991', '9007199254740992', '1e400', 'NaN', '0x']
const sizes = ['0', '1', '2', '3', '8', '17', '2147483647', '2147483648', ...wrong]
const shares = ['0', '1', '0.3', '1.01', '-0.01', '1e-300', '1e39', ...wrong]
const rates = ['0', '1', '1e-9', '30', '1e30', '3e38', '1e39', ...wrong]

/** What is tried of each option. Nothing that is allowed and takes long: that is asked for, and no fault. */
const ofEveryScript: Readonly<Record<string, readonly string[]>> = {
  steps: ['0', '1', '3', '-1', '1.5', 'x', '9007199254740992'],
  sample: ['0', '1', '7', '-1', '0.5', '9007199254740992'],
  prompt: ['', ' ', 'the', '\ud83d\ude00', '<|endoftext|>', 'é', 'x'.repeat(30_000), '\r\n'],
  seed: ['0', '1', '4294967', '4294968', '4294967296', '9007199254740991', '9007199254740992', '-1', 'x'],
  threads: ['0', '1', '2', '3', '17', '1000', '1e9', '-1', 'x'],
  device: ['cpu', 'tpu', ''],
  precision: ['f32', 'f16', 'f64'],
  memory: ['1B', '1kB', '300kB', '1GB', '1e9', '0GB', '-1GB', '', '99999TB'],
  data: ['text.txt', 'short.txt', 'folder.ts', 'gone.txt', 'wrong.zip', 'wrong.parquet', ''].map(name =>
    name ? at(name) : '',
  ),
  tokenizer: ['bytes', 'gpt2', 'gpt3'],
  mirror: ['http://127.0.0.1:1/', 'x', ''],
  run: ['name', '../x', '', '.', 'x'.repeat(300), '-x'],
  runs: [at('other'), at('text.txt'), '/dev/null', '/proc/none', ''],
  resume: ['', 'none', '../x'],
  init: [at('gone.safetensors'), at('wrong.safetensors'), at('folder.ts'), ''],
  checkpoint: ['0', '1', '2', '-1', '1e15', '9007199254740992', 'x'],
  target: ['0', '9', '-1', '1e300', 'Infinity', 'x'],
  repeat: ['0', '1', '2', '1001', '1e15', '9007199254740991', 'x'],
  log: [at('log.jsonl'), at('folder.ts'), '/dev/full', ''],
  train: ['true', 'false', 'x'],
  explain: ['true', 'false', 'x'],
  profile: ['true', 'false', 'x'],
  json: ['true', 'false', 'x'],
  help: ['', 'x'],
  nonsense: ['1'],
  temperature: ['0', '1', '1e-300', '3e38', ...wrong],
}

const tiny = `--device cpu --threads 1 --steps 2 --sample 3 --data ${at('text.txt')} --runs ${at('runs')}`

/** A script, options with which it takes a moment, and what is tried of its own options. */
type Tried = { script: string[]; small: string; own: Readonly<Record<string, readonly string[]>> }

const scripts: readonly Tried[] = [
  {
    script: [],
    small:
      '--net.dim 16 --net.blocks 1 --net.keyDim 4 --net.ngramRows 16 --batch.tokens 64 --batch.length 16 --evaluation.tokens 64',
    own: {
      seconds: ['0', '0.1', '-1', 'x', '1e400'],
      'net.dim': sizes,
      'net.blocks': [...sizes.filter(size => size !== '2147483647'), '1001'],
      'net.keyDim': sizes,
      'net.expand': sizes,
      'net.ngramRows': [...sizes, '16,16,16', '16,,16', '1,2', '7,8', '1073741824', '-4'],
      'batch.tokens': [...sizes, '15', '16', '100000000'],
      'batch.firstLength': sizes,
      'batch.length': [...sizes, '64', '65'],
      'batch.growEvery': shares,
      'optimizer.matrixRate': rates,
      'optimizer.rate': rates,
      'optimizer.ngramRate': rates,
      'optimizer.warmup': shares,
      'optimizer.decay': shares,
      'optimizer.weightDecay': rates,
      'optimizer.gradNorm': rates,
      'evaluation.every': shares,
      'evaluation.tokens': sizes,
      topK: sizes,
    },
  },
  {
    script: ['baselines/hlb-gpt-0.1.ts'],
    small:
      '--net.dim 16 --net.heads 2 --net.blocks 1 --batch.length 8 --batch.sequences 4 --batch.accumulate 2 --evaluation.batches 1',
    own: {
      'net.dim': sizes,
      'net.heads': sizes,
      'net.expand': sizes,
      'batch.length': sizes,
      'batch.sequences': sizes,
      'batch.accumulate': sizes.filter(size => size !== '2147483647'),
      'optimizer.warmup': shares,
      'optimizer.divFactor': rates,
      'optimizer.finalDivFactor': rates,
      'optimizer.weightDecay': rates,
      'evaluation.every': sizes,
      'evaluation.batches': sizes,
    },
  },
  {
    script: ['baselines/hlb-gpt-0.4.ts'],
    small:
      '--net.dim 16 --net.blocks 1 --batch.capacity 128 --batch.firstLength 8 --batch.length 16 --evaluation.tokens 64',
    own: {
      modelScale: shares,
      'net.dim': sizes,
      'net.keyDimDivisor': sizes,
      'net.expand': sizes,
      'batch.capacity': sizes,
      'batch.firstLength': sizes,
      'batch.growEvery': sizes,
      'optimizer.rate': rates,
      'optimizer.weightDecay': rates,
      'optimizer.warmup': sizes,
      'microbatch.sampleEvery': sizes,
      'microbatch.rate': rates,
      'microbatch.most': rates.filter(rate => Number(rate) < 100),
      'evaluation.every': sizes,
      'evaluation.tokens': sizes,
    },
  },
]

/** The arguments of one of the random command lines. */
function commandLine(number: number): string[] {
  const random = seeded(number + 1)
  const oneOf = <Choice>(choices: readonly Choice[]): Choice => choices[Math.floor(random() * choices.length)]
  const { script, small, own } = oneOf([scripts[0], ...scripts])
  const options = Object.entries(random() < 0.5 ? own : ofEveryScript)
  const drawn = Array.from({ length: 1 + Math.floor(random() * 2) }, () => {
    const [name, values] = oneOf(options)
    return `--${name}=${oneOf(values)}`
  })
  return [...script, ...tiny.split(' '), ...small.split(' '), ...drawn]
}

/** What is wrong about how a command line ends, if anything is. */
async function faultOf(args: readonly string[]): Promise<string | undefined> {
  const command = ['--import', './run/node.js', 'run/start.ts', ...args]
  const child = spawn(process.execPath, command, {
    cwd: resolve(import.meta.dirname, '../..'),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 300_000,
    killSignal: 'SIGKILL',
  })
  let [stdout, stderr] = ['', '']
  child.stdout.setEncoding('utf8').on('data', text => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', text => (stderr += text))
  const [code, signal]: (number | string | null)[] = await once(child, 'close')
  const said = `${stdout.slice(-300)}\n${stderr.slice(0, 1500)}`
  if (signal !== null) return `ended by ${signal}: ${said}`
  if (/^\s+at /m.test(stderr) || /\bundefined\b|\[object/.test(stderr)) return `a stack: ${said}`
  if (code === 0) return /NaN/.test(stdout) ? `NaN in silence: ${said}` : undefined
  const lines = stderr.trimEnd().split('\n')
  if (code !== 1 || lines.length !== 1) return `code ${code}, ${lines.length} lines: ${said}`
  // A sentence, or the example that an option's ends with.
  return /^("|--|[A-Z/\d]).*(\.|\?|For example: --.*)$/.test(lines[0]) ? undefined : `no sentence: ${said}`
}

test('each trains or says one sentence', async () => {
  const faults: string[] = []
  const numbers = Array.from({ length: last - first }, (_, i) => first + i)
  const work = async () => {
    for (let number = numbers.shift(); number !== undefined; number = numbers.shift()) {
      const args = commandLine(number)
      const fault = await faultOf(args)
      if (fault !== undefined) faults.push(`${number}: ${args.slice(-2).join(' ').slice(0, 200)}\n${fault}`)
    }
  }
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, work))
  assert.deepEqual(faults, [], faults.join('\n\n'))
})
