// How the processes of a run depend on each other: on npm, on a launcher of ours, on a terminal.
// Plain JavaScript, since Node 20 must read this.
import { spawn, spawnSync } from 'node:child_process'
import { fstatSync, readFileSync, readSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { basename } from 'node:path'

/** Tells a child which process started it. Not for its own children: it takes it out of its environment. */
const parentVariable = 'HLB_GPT_PARENT'
const pollMilliseconds = 1000

/**
 * What a shell reports for a process that a signal ended: 130 for SIGINT.
 * @param {NodeJS.Signals} signal
 */
export const exitCodeOf = signal => 128 + constants.signals[signal]

/**
 * Runs a program with this process's streams, passes signals on to it, and returns its exit code. Should this process
 * be killed, the child notices (if it calls followParent) and ends too.
 * @param {string} binary
 * @param {readonly string[]} args
 */
export async function runChild(binary, args) {
  const env = { ...process.env, [parentVariable]: String(process.pid) }
  const child = spawn(binary, args, { stdio: 'inherit', env })
  // The child alone decides what a signal means; a Ctrl-C reaches both, and must not end this one first.
  const pass = (/** @type {NodeJS.Signals} */ signal) => void child.kill(signal)
  const signals = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])
  for (const signal of signals) process.on(signal, pass)
  /** @type {number} */
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => resolve(code ?? exitCodeOf(signal ?? 'SIGKILL')))
  })
  for (const signal of signals) process.off(signal, pass)
  return code
}

/**
 * Ends this process as SIGTERM does once npm or the launcher that started it is gone: nobody could stop it otherwise.
 * A process that was started in any other way goes on without its parent, and so does one started with nohup when its
 * terminal closes.
 */
export function followParent() {
  const isGone = parentWatch()
  let polls = 0
  const poll = () => {
    // Two polls, so that the SIGHUP of a closed terminal arrives first, which ends npm as well.
    polls = isGone?.() ? polls + 1 : 0
    if (polls < 2) return
    clearInterval(timer)
    // Not process.kill, which cannot be caught on Windows.
    if (!process.emit('SIGTERM', 'SIGTERM')) process.exit(exitCodeOf('SIGTERM'))
  }
  const timer = isGone && setInterval(poll, pollMilliseconds).unref()
  if (outlivesTerminal) process.on('SIGHUP', () => clearInterval(timer))
}

/** A function that tells whether the process to depend on is gone; none where there is no such process. */
function parentWatch() {
  const launcher = Number(process.env[parentVariable])
  delete process.env[parentVariable]
  if (launcher) return () => process.ppid !== launcher || !exists(launcher)
  // npm run, and what is like it: an environment that says so may also come from further up, hence the script.
  if (!/run[/\\]node\.js/.test(process.env.npm_lifecycle_script ?? '')) return undefined
  const parent = process.ppid
  const { name, parent: above } = describe(parent)
  const isParentGone = () => process.ppid !== parent || !exists(parent)
  // Some shells replace themselves with the script, others stay between it and npm, and outlive npm.
  if (above === undefined || !/^(\w*sh|busybox)$/.test(basename(name))) return isParentGone
  const isNpmGone =
    process.platform === 'linux' ? () => describe(parent).parent !== above : () => !exists(above)
  return () => isParentGone() || isNpmGone()
}

/** @param {number} pid */
function exists(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

/**
 * The name and the parent of a process, as far as the system tells.
 * @param {number} pid
 * @returns {{ name: string, parent: number | undefined }}
 */
function describe(pid) {
  if (process.platform === 'win32') return { name: '', parent: undefined }
  if (process.platform !== 'linux') {
    const { stdout } = spawnSync('ps', ['-o', 'ppid=,comm=', '-p', String(pid)], { encoding: 'utf8' })
    const [, parent, name] = /^\s*(\d+)\s+-?(.*\S)/.exec(stdout ?? '') ?? []
    return { name: name ?? '', parent: parent === undefined ? undefined : Number(parent) }
  }
  try {
    const [, name, parent] = /^\d+ \((.*)\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
    return { name: name ?? '', parent: parent === undefined ? undefined : Number(parent) }
  } catch {
    return { name: '', parent: undefined }
  }
}

/**
 * Whether this process was started with nohup, and is to go on when its terminal closes. Node forgets at start which
 * signals it was told to ignore, so this looks at what else nohup leaves: the last command of the shell (bash, zsh), and
 * in place of the terminal a null device that cannot be read from (GNU).
 */
export const outlivesTerminal = isNohup()

function isNohup() {
  if (basename(process.env._ ?? '') === 'nohup') return true
  try {
    const input = fstatSync(0)
    if (!input.isCharacterDevice() || input.rdev !== statSync('/dev/null').rdev) return false
    readSync(0, new Uint8Array(1))
    return false
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EBADF'
  }
}
