/** A run ends with npm or the launcher that started it, and goes on when another kind of parent ends; its work is kept. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { after, describe, test } from 'node:test'
import { checkpointsOf, makeFolder } from '../support/command.ts'

const project = resolve(import.meta.dirname, '../..')
const { folder, runs, fresh } = makeFolder()
after(() => rmSync(folder, { recursive: true }))

const node = [process.execPath, '--import', './run/node.js', 'run/start.ts']
const endless = [...fresh, '--steps', '1000000000', '--threads', '1', '--sample', '0']
/** What npm says of itself to the tests would make this npm's child; and a shell's `_` is the command that it started. */
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('npm_') && name !== '_'),
)

/** Starts a command, and waits for the first row of the table. `closed` is when all its processes have ended. */
async function startTraining(command: readonly string[], more: Record<string, string> = {}) {
  const [file, ...args] = command
  const child = spawn(file, args, {
    cwd: project,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...env, ...more },
  })
  const closed = once(child, 'close')
  let stdout = ''
  child.stderr.resume()
  child.stdout.on('data', piece => void (stdout += piece))
  while (!/^\| *\d/m.test(stdout)) await Promise.race([once(child.stdout, 'data'), closed.then(failed)])
  return { child, closed }
}

function failed(): never {
  throw new Error('it ended before its first row')
}

/** Asserts that a run wrote a checkpoint of its last step, behind that of its first row, and left no lock. */
function assertSaved(name: string): void {
  assert.ok(checkpointsOf(join(runs, name)).last > 1)
  assert.deepEqual(locksOf(name), [])
}

const locksOf = (name: string) => readdirSync(join(runs, name)).filter(file => file.startsWith('lock-'))

const lastRow = (name: string): Record<string, number> =>
  JSON.parse(
    readFileSync(join(runs, name, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .at(-1)!,
  )

const kill = (child: ChildProcess, signal: NodeJS.Signals) => void child.kill(signal)
const hasNpm = spawnSync('npm', ['--version']).status === 0

describe(
  'a run of npm',
  { skip: (process.platform === 'win32' || !hasNpm) && 'no npm that takes signals' },
  () => {
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGKILL'] as const) {
      test(`is saved and ends when npm gets ${signal}`, async () => {
        const name = `npm-${signal}`
        const { child, closed } = await startTraining(['npm', 'start', '-s', '--', ...endless, '--run', name])
        kill(child, signal)
        await closed
        assertSaved(name)
      })
    }
  },
)

describe('a run', { skip: process.platform === 'win32' && 'no signals' }, () => {
  test('of --repeat is saved and ends when the process that repeats is killed', async () => {
    const { child, closed } = await startTraining([...node, ...endless, '--run', 'many', '--repeat', '2'])
    kill(child, 'SIGKILL')
    await closed
    assertSaved('many-seed-0')
    assert.ok(!readdirSync(runs).includes('many-seed-1'))
  })

  test('of --repeat ends all of it with the exit code of a signal', async () => {
    const { child, closed } = await startTraining([...node, ...endless, '--run', 'both', '--repeat', '2'])
    kill(child, 'SIGHUP')
    assert.deepEqual(await closed, [129, null])
    assert.ok(!readdirSync(runs).includes('both-seed-1'))
  })

  const seconds = [...fresh, '--seconds', '5', '--threads', '1', '--sample', '0']

  test('in the background of a shell goes on when the shell ends', async () => {
    const command = [...node, ...seconds, '--run', 'alone'].map(word => `'${word}'`).join(' ')
    const { closed } = await startTraining(['sh', '-c', `nohup ${command} &`])
    await closed
    assert.equal(lastRow('alone').done, 1)
  })

  test('with nohup goes on when its terminal closes', async () => {
    const { child, closed } = await startTraining([...node, ...seconds, '--run', 'nohup'], {
      _: '/usr/bin/nohup',
    })
    kill(child, 'SIGHUP')
    assert.deepEqual(await closed, [0, null])
    assert.equal(lastRow('nohup').done, 1)
  })

  test('whose reader went away is saved and ends, as by SIGPIPE', async () => {
    const rows = ['--evaluation.every', '0.00000001']
    const { child } = await startTraining([...node, ...endless, ...rows, '--run', 'unread'])
    child.stdout!.destroy()
    assert.deepEqual(await once(child, 'exit'), [141, null])
    assertSaved('unread')
  })

  test('whose lock was taken by another process says so, and writes nothing', async () => {
    const rows = ['--evaluation.every', '0.00000001']
    const { child, closed } = await startTraining([...node, ...endless, ...rows, '--run', 'taken'])
    let stderr = ''
    child.stderr!.on('data', piece => void (stderr += piece))
    for (const name of locksOf('taken')) rmSync(join(runs, 'taken', name))
    assert.deepEqual(await closed, [1, null])
    assert.match(stderr, /^\S+taken is not this process's any more: [^\n]+\n$/)
  })
})
