import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'

const project = pathToFileURL(resolve(import.meta.dirname, '../..')).href

/** The arguments that make Node run a script whose imports from 'project/' are this project's. */
function nodeArguments(script: string): string[] {
  return ['--input-type=module', '--eval', script.replaceAll("'project/", `'${project}/`)]
}

describe('errors', () => {
  function runScript(script: string): { status: number | null; stderr: string } {
    const code = `import { UserError } from 'project/common/errors.ts'; import { handleErrors } from 'project/run/process/handle-errors.ts'; handleErrors(); ${script}`
    const { status, stderr } = spawnSync(process.execPath, nodeArguments(code), { encoding: 'utf8' })
    return { status, stderr }
  }

  test('of the user show their message alone', () => {
    const expected = { status: 1, stderr: 'no such file\n' }
    assert.deepEqual(runScript(`throw new UserError('no such file')`), expected)
    assert.deepEqual(runScript(`void Promise.reject(new UserError('no such file'))`), expected)
  })

  test('of ours keep their stack', () => {
    const { status, stderr } = runScript(`throw new TypeError('oh')`)
    assert.equal(status, 1)
    assert.match(stderr, /TypeError: oh\n +at /)
  })

  test('a reader that goes away ends the run quietly', async () => {
    const script = `
      import { handleErrors } from 'project/run/process/handle-errors.ts'
      handleErrors()
      setInterval(() => console.log('row'), 5)`
    const child = spawn(process.execPath, nodeArguments(script), { stdio: ['ignore', 'pipe', 'pipe'] })
    let stderr = ''
    child.stderr.on('data', piece => void (stderr += piece))
    await once(child.stdout, 'data')
    child.stdout.destroy()
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
    assert.equal(stderr, '')
  })
})

test(
  'a full disk under the output is said once, and ends nothing',
  { skip: !existsSync('/dev/full') && 'no /dev/full here' },
  () => {
    const script = `
    import { handleErrors } from 'project/run/process/handle-errors.ts'
    handleErrors()
    console.log('row')
    setTimeout(() => (console.log('row'), process.exitCode = 7), 20)`
    const { status, stderr } = spawnSync(process.execPath, nodeArguments(script), {
      stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'],
      encoding: 'utf8',
    })
    assert.equal(status, 7)
    assert.match(
      stderr,
      /^Output cannot be written \([^\n]*ENOSPC[^\n]*\)\. The program continues without it\.\n$/,
    )
  },
)

describe('Ctrl-C', { skip: process.platform === 'win32' && 'not for Windows' }, () => {
  const script = `
    import { existsSync } from 'node:fs'
    import { watchInterrupt } from 'project/run/process/interrupt.ts'
    const mode = process.argv[1]
    process.on('exit', () => console.log('cleaned up'))
    const interrupt = watchInterrupt(async () => {
      console.log('heard')
      const end = performance.now() + 400
      if (mode === 'busy at first') while (performance.now() < end || !existsSync(process.argv[2]));
      if (mode !== 'busy for ever') return
      await interrupt.settled()
      console.log('settled')
      while (true);
    })
    if (mode !== 'early') interrupt.begin()
    await interrupt.settled()
    console.log('started')
    const timer = setInterval(() => {
      if (!interrupt.requested || mode === 'busy for ever') return
      clearInterval(timer)
      console.log('closed')
    }, 20)`

  /** A shell's `_` is the command that it started. */
  async function start(mode = '', file = '', command = '') {
    const child = spawn(process.execPath, [...nodeArguments(script), '--', mode, file], {
      stdio: 'pipe',
      env: { ...process.env, _: command },
    })
    let stdout = ''
    child.stdout.on('data', piece => void (stdout += piece))
    const printed = async (text: string) => {
      while (!stdout.includes(text)) await once(child.stdout, 'data')
    }
    const ended = once(child, 'close').then(([code, signal]) => ({ end: code ?? signal, stdout }))
    await printed('started')
    return { child, ended, printed }
  }
  const gentle = 'started\nheard\nclosed\ncleaned up\n'

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    test(`${signal} lets the run end by itself, with its own exit code`, async () => {
      const { child, ended } = await start()
      child.kill(signal)
      assert.deepEqual(await ended, { end: code, stdout: gentle })
    })
  }

  test('before there is work to save ends it at once, and what is to be tidied up is', async () => {
    const { child, ended } = await start('early')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 130, stdout: 'started\ncleaned up\n' })
  })

  test('once, told twice as npm does, is once', async () => {
    const { child, ended, printed } = await start()
    child.kill('SIGINT')
    await printed('heard')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 130, stdout: gentle })
  })

  test('once, told twice while the process is busy, is once', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
    const file = join(folder, 'sent')
    const { child, ended, printed } = await start('busy at first', file)
    child.kill('SIGINT')
    await printed('heard')
    child.kill('SIGINT')
    writeFileSync(file, '')
    assert.deepEqual(await ended, { end: 130, stdout: gentle })
    rmSync(folder, { recursive: true })
  })

  test('twice ends it at once, however busy it is', async () => {
    const { child, ended, printed } = await start('busy for ever')
    child.kill('SIGINT')
    await printed('settled')
    child.kill('SIGINT')
    assert.deepEqual(await ended, { end: 'SIGINT', stdout: 'started\nheard\nsettled\n' })
  })

  test('does not mean a closed terminal to what nohup started', async () => {
    const { child, ended } = await start('', '', '/usr/bin/nohup')
    child.kill('SIGHUP')
    child.kill('SIGTERM')
    assert.deepEqual(await ended, { end: 143, stdout: gentle })
  })
})
