import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { inTurn } from '../../data/cache/in-turn.ts'
import { tidyCache } from '../../data/cache/cache-file.ts'
import { temporaryName } from '../../common/temporary-files.ts'

let folder = ''
let path = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-turn-'))
  path = join(folder, 'cache', 'text')
})
afterEach(() => rm(folder, { recursive: true, force: true }))

/** The number of a process that has ended. */
const endedProcess = () => spawnSync(process.execPath, ['-e', '']).pid

describe('of those who want the same work', () => {
  test('one works at a time, and nothing is left', async () => {
    let working = 0
    let waited = 0
    const work = async () => {
      assert.equal(++working, 1)
      await new Promise(done => setTimeout(done, 10))
      working--
    }
    await Promise.all(Array.from({ length: 4 }, () => inTurn(path, work, { waiting: () => waited++ })))
    assert.ok(waited >= 1)
    assert.deepEqual(await readdir(join(folder, 'cache')), [])
  })

  test('the next goes on when one fails', async () => {
    const failing = inTurn(path, () => Promise.reject(new Error('no')))
    await assert.rejects(failing, /no/)
    assert.equal(await inTurn(path, async () => 'done'), 'done')
  })

  test('a process that is killed holds nobody up', async () => {
    const held = `
      import { inTurn } from '${new URL('../../data/cache/in-turn.ts', import.meta.url).href}'
      await inTurn(${JSON.stringify(path)}, async () => { console.log('held'); setInterval(() => {}, 1000); await new Promise(() => {}) })`
    const child = spawn(process.execPath, ['--input-type=module', '-e', held], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    let isEnded = false
    const next = inTurn(path, async () => assert.ok(isEnded), {
      waiting: () => {
        isEnded = true
        child.kill('SIGKILL')
      },
      staleMilliseconds: 600_000,
    })
    await next
  })

  test('a lock of another machine counts while it is touched', async () => {
    await mkdir(join(folder, 'cache'))
    await writeFile(`${path}.lock`, JSON.stringify({ host: `not-${hostname()}`, pid: process.pid, id: '' }))
    const told: string[] = []
    const options = { waiting: () => told.push('waits'), staleMilliseconds: 500 }
    assert.equal(await inTurn(path, async () => 'done', options), 'done')
    assert.deepEqual(told, ['waits'])
  })

  test('what is no lock, or cannot be one, holds nobody up for good', async () => {
    await mkdir(`${path}.lock`, { recursive: true })
    assert.equal(await inTurn(path, async () => 'done', { staleMilliseconds: 1 }), 'done')
    await writeFile(join(folder, 'file'), '')
    assert.equal(await inTurn(join(folder, 'file', 'text'), async () => 'done'), 'done')
  })
})

test('what killed processes left is removed, and nothing else', async () => {
  const make = async (name: string, hours: number) => {
    await writeFile(join(folder, name), 'x')
    const when = new Date(Date.now() - hours * 3_600_000)
    await utimes(join(folder, name), when, when)
  }
  const own = temporaryName('own')
  const ended = temporaryName('ended').replace(`-${process.pid}.`, `-${endedProcess()}.`)
  const elsewhere = temporaryName('elsewhere').replace(/\.[\w-]+-\d+\./, '.other-host-1.')
  const id = own.slice(-41, -5)
  await make(own, 0.5)
  await make(ended, 0.5)
  await make(`new${ended}`, 0)
  await make(elsewhere, 0.5)
  await make(`old${elsewhere}`, 2)
  await make(`tokens.bin.${id}`, 2)
  await make('text.lock', 2)
  await make('held.lock', 0)
  await make('tokens.bin', 100)
  await make('train.parquet.part', 100)
  await mkdir(join(folder, `fetch-${id}`))
  await writeFile(join(folder, `fetch-${id}`, 'archive.tgz'), 'x')
  await utimes(join(folder, `fetch-${id}`), 1e9, 1e9)
  await tidyCache(folder)
  await tidyCache(join(folder, 'none'))
  assert.deepEqual(
    (await readdir(folder)).toSorted(),
    [own, `new${ended}`, elsewhere, 'held.lock', 'tokens.bin', 'train.parquet.part'].toSorted(),
  )
  assert.equal(await readFile(join(folder, 'tokens.bin'), 'utf8'), 'x')
})
