/** One process at a time has the folder of a run, whatever machine or container it is on. */
import assert from 'node:assert/strict'
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { lockFolder } from '../../run/folders/lock.ts'

const all = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(all, 'run-'))
})
after(() => rmSync(all, { recursive: true }))

const locks = () => readdirSync(folder).filter(name => name.startsWith('lock-'))
const lockModule = pathToFileURL(resolve(import.meta.dirname, '../../run/folders/lock.ts')).href
const script = `
  import { lockFolder } from '${lockModule}'
  import { handleErrors } from '${new URL('../process/handle-errors.ts', lockModule).href}'
  handleErrors()
  const [folder, beat, patience] = process.argv.slice(1)
  const lock = await lockFolder(folder, { interval: Number(beat), timeout: Number(patience) })
  console.log('locked')
  process.stdin.on('data', async () => {
    await lock.confirm()
    console.log('confirmed')
  }).on('end', () => process.exit())`

/** A process that locks the folder and holds it until its input ends. */
function locker(first: readonly string[] = [], pulse = [100, 10_000]): ChildProcessWithoutNullStreams {
  const [file, ...rest] = [
    ...first,
    process.execPath,
    '--input-type=module',
    '--eval',
    script,
    '--',
    folder,
    ...pulse.map(String),
  ]
  return spawn(file, rest)
}

/** Its exit code and what it printed, once it has ended. */
async function endOf(child: ChildProcessWithoutNullStreams) {
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', piece => void (stdout += piece))
  child.stderr.on('data', piece => void (stderr += piece))
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

describe('the lock of a folder', () => {
  test('is held by a process that lives, and by nobody after kill -9', async () => {
    const first = locker()
    await once(first.stdout, 'data')
    const second = await endOf(locker())
    assert.equal(second.code, 1)
    assert.match(second.stderr, new RegExp(`^\\S+ is in use by process ${first.pid}: wait [^\\n]+\\n$`))
    first.kill('SIGKILL')
    await once(first, 'exit')
    assert.equal(locks().length, 1, 'it could not remove its file')
    const third = locker()
    third.stdin.end()
    assert.deepEqual(await endOf(third), { code: 0, stdout: 'locked\n', stderr: '' })
    assert.deepEqual(locks(), [])
  })

  test('is touched again and again', async () => {
    const child = locker()
    await once(child.stdout, 'data')
    const [name] = locks()
    const { mtimeMs } = statSync(join(folder, name))
    while (statSync(join(folder, name)).mtimeMs === mtimeMs) await sleep(50)
    child.stdin.end()
    await once(child, 'exit')
  })

  test('is not had by two that come at once', async () => {
    for (let round = 0; round < 3; round++) {
      const children = Array.from({ length: 4 }, () => locker())
      const locked = await Promise.all(
        children.map(child =>
          Promise.race([once(child.stdout, 'data').then(() => true), once(child, 'exit').then(() => false)]),
        ),
      )
      assert.ok(locked.filter(Boolean).length <= 1, `${locked}`)
      await Promise.all(children.map(child => child.exitCode ?? (child.stdin.end(), once(child, 'exit'))))
      assert.deepEqual(locks(), [])
    }
  })

  const foreign = JSON.stringify({ host: 'web-1', pid: 7, birth: '1', machine: 'another' })

  test('of another machine is held while its file is touched', async () => {
    const path = join(folder, 'lock-foreign')
    writeFileSync(path, foreign)
    const timer = setInterval(() => utimesSync(path, new Date(), new Date()), 100)
    await assert.rejects(
      lockFolder(folder, { interval: 200, timeout: 60_000 }),
      /in use by process 7 on web-1/,
    )
    clearInterval(timer)
    assert.deepEqual(locks(), ['lock-foreign'])
  })

  test("of another machine is nobody's when its file is not touched", async () => {
    writeFileSync(join(folder, 'lock-foreign'), foreign)
    writeFileSync(join(folder, 'lock-half-written'), '')
    const child = locker([], [100, 600])
    child.stdin.end()
    const { code, stderr } = await endOf(child)
    assert.equal(code, 0, stderr)
    assert.match(stderr, /was in use by process 7 on web-1, which may be gone: waiting/)
    assert.deepEqual(locks(), [])
  })

  test('of another machine costs no wait when its file is old', async () => {
    const path = join(folder, 'lock-foreign')
    writeFileSync(path, foreign)
    utimesSync(path, new Date(0), new Date(0))
    const child = locker([], [1_000_000, 1_000_000])
    child.stdin.end()
    assert.deepEqual(await endOf(child), { code: 0, stdout: 'locked\n', stderr: '' })
  })

  test('by an earlier version is that of a process on this host', async () => {
    writeFileSync(join(folder, `lock-${hostname()}-${2 ** 22 + 1}`), '123')
    const child = locker()
    child.stdin.end()
    assert.deepEqual(await endOf(child), { code: 0, stdout: 'locked\n', stderr: '' })
  })

  test('is not confirmed once another process took it', async () => {
    const child = locker()
    await once(child.stdout, 'data')
    const ended = endOf(child)
    child.stdin.write('?')
    await once(child.stdout, 'data')
    for (const name of locks()) rmSync(join(folder, name))
    child.stdin.write('?')
    const { code, stdout, stderr } = await ended
    assert.equal(code, 1)
    assert.equal(stdout, 'confirmed\n')
    assert.match(stderr, /^\S+ is not this process's any more: [^\n]+\n$/)
  })

  test('that cannot be written is refused in a sentence', async () => {
    const file = join(folder, 'file')
    writeFileSync(file, '')
    await assert.rejects(lockFolder(file), { name: 'UserError', message: /cannot be locked .*ENOTDIR/ })
  })

  test('waits for no file that is none', async () => {
    await mkdir(join(folder, 'lock-folder'))
    const child = locker()
    child.stdin.end()
    assert.deepEqual(await endOf(child), { code: 0, stdout: 'locked\n', stderr: '' })
  })
})

const newNamespace = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']
const canUnshare = spawnSync(newNamespace[0], [...newNamespace.slice(1), 'true']).status === 0

describe('two containers of one host name', { skip: !canUnshare && 'no namespaces here' }, () => {
  test('do not both have a folder, though their processes have the same number', async () => {
    const first = locker(newNamespace)
    await once(first.stdout, 'data')
    const { pid }: { pid: number } = JSON.parse(readFileSync(join(folder, locks()[0]), 'utf8'))
    const second = await endOf(locker(newNamespace, [100, 60_000]))
    assert.equal(second.code, 1)
    assert.match(second.stderr, new RegExp(`is in use by process ${pid}: wait`))
    first.stdin.end()
    await once(first, 'exit')
  })
})
