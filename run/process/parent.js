// Runs child processes, and ends this process when the one that started it (npm or our launcher) is gone.
// This is plain JavaScript since Node 20 must be able to run it.
import { spawn, spawnSync } from 'node:child_process'
import { fstatSync, readFileSync, readSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { basename } from 'node:path'

/** An environment variable that names the parent process. A child deletes it, so that its own children do not see it. */
const parentVariable = 'HLB_GPT_PARENT'
const pollMilliseconds = 1000

/**
 * The exit code that a shell reports for a process ended by a signal: 130 for SIGINT.
 * @param {NodeJS.Signals} signal
 */
export const exitCodeOf = signal => 128 + constants.signals[signal]

/**
 * Runs a program with this process's streams, forwards signals to it, and returns its exit code. If this process is
 * killed, the child ends too, provided that it calls followParent.
 * @param {string} binary
 * @param {readonly string[]} args
 */
export async function runChild(binary, args) {
  const env = { ...process.env, [parentVariable]: String(process.pid) }
  const child = spawn(binary, args, { stdio: 'inherit', env })
  // The child decides what a signal means. Ctrl-C reaches both processes, and must not end this one first.
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
 * Ends this process as SIGTERM does once npm or the launcher that started it is gone, since nobody could stop it then.
 * A process that was started in another way continues without its parent, and so does one started with nohup when its
 * terminal closes.
 */
export function followParent() {
  const isGone = parentWatch()
  let polls = 0
  const poll = () => {
    // Two polls, so that the SIGHUP of a closed terminal, which ends npm too, arrives first.
    polls = isGone?.() ? polls + 1 : 0
    if (polls < 2) return
    clearInterval(timer)
    // process.kill cannot be caught on Windows.
    if (!process.emit('SIGTERM', 'SIGTERM')) process.exit(exitCodeOf('SIGTERM'))
  }
  const timer = isGone && setInterval(poll, pollMilliseconds).unref()
  if (outlivesTerminal) process.on('SIGHUP', () => clearInterval(timer))
}

/** A function that tells whether the parent to depend on is gone; undefined if there is no such parent. */
function parentWatch() {
  const launcher = Number(process.env[parentVariable])
  delete process.env[parentVariable]
  if (launcher) return () => process.ppid !== launcher || !exists(launcher)
  // npm run and similar. The variable may be inherited from a process further up, so this checks the script in it.
  if (!/run[/\\]node\.js/.test(process.env.npm_lifecycle_script ?? '')) return undefined
  const parent = process.ppid
  const { name, parent: above } = describe(parent)
  const isParentGone = () => process.ppid !== parent || !exists(parent)
  // Some shells replace themselves with the script; others remain between it and npm, and outlive npm.
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
 * The name and the parent of a process, if the system tells them.
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
 * Whether this process was started with nohup, and should continue when its terminal closes. Node resets ignored signals
 * at start, so this looks for other traces of nohup: the shell's last command (bash, zsh), and a null device as standard
 * input that cannot be read (GNU).
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
