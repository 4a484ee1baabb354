/** Runs a work on each rival in a process of its own, and reads what it printed. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Work, nameOf } from './work.ts'

const execute = promisify(execFile)
const beside = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** The line that a rival's process prints; the names are as the Python scripts have them. */
export interface Measurement {
  /** Of the fastest repetition. */
  readonly seconds: number
  /** The most memory that the process has held. */
  readonly peak_mib?: number
  /** What tracing and compiling took. */
  readonly compile_s?: number
  /** Bytes that a copy in memory reads and writes in a second, measured beside a sample. */
  readonly copied_bytes_per_s?: number
}

/** Something to measure, each time in a process of its own. */
export interface Rival {
  readonly name: string
  /** What it is and runs on, for the table's header. */
  readonly description: string
  /** What makes its numbers meaningless, if anything does. */
  readonly warning?: string
  /** The process for some work, or undefined if it cannot do that. */
  command(work: Work): readonly string[] | undefined
  readonly environment?: Readonly<Record<string, string>>
}

/** Runs one rival's process once. Throws with the process's own words when it fails. */
export async function measure(rival: Rival, command: readonly string[]): Promise<Measurement> {
  return JSON.parse(await run(command, rival.environment)) as Measurement
}

async function run(
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<string> {
  const [file, ...args] = command
  const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...environment }
  try {
    return (await execute(file, args, { env, timeout: 900_000 })).stdout
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string }
    // The line that matters, of whatever Node or Python writes around it.
    const line = stderr.split('\n').findLast(line => /Error\b.*:/.test(line))
    throw new Error(line ?? message.trim(), { cause: error })
  }
}

/** This project, on its CPU backend. */
export function ours(threads: number): Rival {
  const command = (work: Work) => [
    process.execPath,
    // The preload that prepares V8 for kernels.
    ...process.execArgv,
    beside('ours.ts'),
    ...words(work),
    `--threads=${threads}`,
  ]
  return { name: 'ours', description: `ours: Node ${process.versions.node}, ${threads} threads`, command }
}

/** This project on the GPU, in each form of its products. */
export const oursOnGpu: readonly Rival[] = [
  ['f32', 'float32 products'],
  ['f16', 'float16 products, float32 sums'],
  ['matrix', 'the same in subgroup matrices (tensor cores), where the GPU has them'],
].map(([precision, description]) => ({
  name: `ours ${precision}`,
  description: `ours ${precision}: ${description}`,
  command: work => [
    process.execPath,
    ...process.execArgv,
    beside('ours.ts'),
    ...words(work),
    '--device=gpu',
    `--precision=${precision}`,
  ],
}))

/** PyTorch on the GPU, if there is a Python that has it and a GPU that it knows: float32, and autocast to float16. */
export async function pyTorchOnGpu(): Promise<Rival[]> {
  const python = await findPython()
  if (!python) return []
  const about = await run([python, beside('torch_machine.py')])
  const { torch, gpu } = JSON.parse(about) as TorchMachine
  if (!gpu) return []
  const rival = (name: string, flags: readonly string[], how: string): Rival => ({
    name,
    description: `${name}: ${torch}, ${gpu}, ${how}`,
    command: work => {
      if (work.kind === 'sample') return undefined
      const script = work.kind === 'matmul' ? 'torch_matmul.py' : 'torch_step.py'
      const name = work.kind === 'matmul' ? words(work).slice(1) : words(work)
      return [python, beside(script), ...name, '--gpu', ...flags]
    },
  })
  return [
    rival('PyTorch f32', [], 'float32 without TF32; steps through torch.compile'),
    rival('PyTorch f16', ['--half'], 'float16 by autocast; steps through torch.compile'),
  ]
}

/** jax-js, the nearest library: WebAssembly, on the one thread that it has in Node. */
export const jax: Rival = {
  name: 'jax-js',
  description: 'jax-js: its wasm backend, 1 thread (it has no more in Node)',
  command: work =>
    work.kind === 'matmul' ? [process.execPath, beside('jax.ts'), ...words(work)] : undefined,
}

/** What holds PyTorch, its BLAS and its oneDNN to AVX2. */
const avx2 = {
  OPENBLAS_CORETYPE: 'Haswell',
  MKL_ENABLE_INSTRUCTIONS: 'AVX2',
  ATEN_CPU_CAPABILITY: 'avx2',
  ONEDNN_MAX_CPU_ISA: 'AVX2',
}

/**
 * PyTorch, if there is a Python that has it; and PyTorch held to AVX2 where the processor has AVX-512,
 * since AVX2 is the most that V8 makes: the same instructions for both.
 */
export async function pyTorch(threads: number): Promise<Rival[]> {
  const python = await findPython()
  if (!python) return []
  const command = (work: Work) => {
    if (work.kind === 'sample') return undefined
    const script = work.kind === 'matmul' ? 'torch_matmul.py' : 'torch_step.py'
    const name = work.kind === 'matmul' ? words(work).slice(1) : words(work)
    return [python, beside(script), ...name, `--threads=${threads}`]
  }
  const rival = async (name: string, environment: Readonly<Record<string, string>>): Promise<Rival> => {
    const about = await run([python, beside('torch_machine.py'), `--threads=${threads}`], environment)
    const machine = JSON.parse(about) as TorchMachine
    const description = `${name}: ${machine.torch}, ${machine.blas}, ATen ${machine.aten}, ${machine.threads} threads`
    return { name, description, command, environment, ...(machine.warning && { warning: machine.warning }) }
  }
  const free = await rival('PyTorch', {})
  return hasAvx512() ? [free, await rival('PyTorch/AVX2', avx2)] : [free]
}

interface TorchMachine {
  readonly torch: string
  readonly blas: string
  readonly aten: string
  readonly threads: number
  readonly gpu?: string
  readonly warning?: string
}

/** The first Python that imports PyTorch: the system's own before whatever is first on the PATH. */
export async function findPython(): Promise<string | undefined> {
  for (const python of ['/usr/bin/python3', 'python3', 'python']) {
    const found = await run([python, '-c', 'import torch']).then(
      () => true,
      () => false,
    )
    if (found) return python
  }
  return undefined
}

function hasAvx512(): boolean {
  try {
    return /\bavx512f\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))
  } catch {
    return false // no Linux: PyTorch as it comes is the only row
  }
}

const words = (work: Work): string[] => [
  ...nameOf(work).split(' '),
  ...(work.kind === 'step' ? [String(work.steps)] : []),
]
