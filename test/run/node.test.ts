import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { delimiter, join, resolve } from 'node:path'
import { test } from 'node:test'

const project = resolve(import.meta.dirname, '../..')

/** A Node on the PATH that is older than the one running this test: npm 10 starts scripts with that one. */
function olderNode(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return folders
    .map(folder => join(folder, 'node'))
    .find(binary => {
      try {
        const version = execFileSync(binary, ['--version'], { encoding: 'utf8' })
        return Number(version.slice(1).split('.')[0]) < 26
      } catch {
        return false
      }
    })
}

const older = olderNode()
const script = 'console.log(process.version, process.argv.slice(1).join("|")); process.exitCode = 3'

test('an older Node hands over to the installed one', { skip: !older && 'no older Node here' }, () => {
  assert.throws(
    () => execFileSync(older!, ['--import', './run/node.js', '-e', script, '--', 'a b'], { cwd: project }),
    (error: { status: number; stdout: Buffer }) => {
      assert.equal(error.status, 3, 'the exit code comes through')
      assert.match(error.stdout.toString(), /^v26\.\d+\.\d+ a b\n$/, 'and so do the arguments')
      return true
    },
  )
})

test(
  'when the older Node is killed, the one that it started ends as well',
  { skip: !older && 'no older Node here' },
  async () => {
    const script = `
    const timer = setInterval(() => {}, 1000)
    process.on('SIGTERM', () => (console.log('told'), clearInterval(timer)))
    console.log(process.ppid)`
    const child = spawn(older!, ['--import', './run/node.js', '-e', script], {
      cwd: project,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let stdout = ''
    child.stdout.on('data', piece => void (stdout += piece))
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child.stdout, 'close') // both have ended
    assert.equal(stdout, `${child.pid}\ntold\n`)
  },
)
