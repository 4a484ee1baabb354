import assert from 'node:assert/strict'
import { appendFileSync, utimesSync } from 'node:fs'
import { mkdir, mkdtemp, open, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { sampleBatch, validationBatches } from '../../data/batches.ts'
import { loadCorpus, type Corpus } from '../../data/corpus.ts'
import { gpt2 } from '../../data/tokens/gpt2.ts'
import { articles, zipOf } from '../support/wikitext.ts'
import { refusal } from '../support/refusal.ts'

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-local-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const train = articles(0, 50).join('')
const validation = articles(50, 5).join('')

function load(name: string, tokenizer?: string): Promise<Corpus> {
  const cacheFolder = join(folder, 'cache')
  return loadCorpus({ data: join(folder, name), tokenizer, sequenceLength: 32, cacheFolder })
}

async function make(files: Record<string, string | Uint8Array>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(folder, name, '..'), { recursive: true })
    await writeFile(join(folder, name), content)
  }
}

const textOf = (tokens: Iterable<number>) => gpt2.decoder()(tokens)
const uint16 = (values: Iterable<number>) => new Uint8Array(Uint16Array.from(values).buffer)
const table = (columnData: Parameters<typeof parquetWriteBuffer>[0]['columnData'], rowGroupSize?: number) =>
  new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize }))
const rows = Array.from({ length: 100 }, (_, i) => `Row ${i} of a table of text, with naïve words in it.`)

describe('--data FOLDER', () => {
  for (const [first, second] of [
    ['wiki.train.raw', 'wiki.valid.raw'],
    ['train.txt', 'valid.txt'],
    ['train.txt', 'val.txt'],
  ] as const) {
    test(`takes ${first} and ${second}`, async () => {
      await make({ [`text/${first}`]: train, [`text/${second}`]: validation })
      const asBytes = await load('text')
      assert.equal(asBytes.name, 'text')
      assert.equal(Buffer.from([...asBytes.train]).toString(), train)
      assert.equal(Buffer.from([...asBytes.validation]).toString(), validation)
      const asTokens = await load('text', 'gpt2')
      assert.deepEqual([...asTokens.train], [...gpt2.encode(train)])
      assert.deepEqual([...asTokens.validation], [...gpt2.encode(validation)])
    })
  }

  test('says which half is missing', async () => {
    await make({ 'a/wiki.train.raw': train, 'b/val.txt': validation, 'c/train.bin': uint16([1]) })
    await assert.rejects(load('a'), refusal(/has wiki\.train\.raw but no wiki\.valid\.raw/))
    await assert.rejects(load('b'), refusal(/has val\.txt but no train\.txt/))
    await assert.rejects(load('c'), refusal(/has no val\.bin/))
  })

  test('refuses a half that is empty', async () => {
    await make({ 'a/train.txt': train, 'a/valid.txt': '' })
    await assert.rejects(load('a'), refusal(/valid\.txt is empty/))
  })

  test('refuses halves that fill no window', async () => {
    await make({
      'a/train.txt': train,
      'a/valid.txt': 'short',
      'b/train.txt': 'short',
      'b/valid.txt': validation,
    })
    await assert.rejects(
      load('a'),
      refusal(/a is too short .* its 5 tokens to validate with .* window of 33/),
    )
    await assert.rejects(load('b', 'gpt2'), refusal(/b is too short .* its 1 tokens to train on/))
  })

  test('tokenizes again what was changed', async () => {
    await make({ 'a/train.txt': train, 'a/valid.txt': validation })
    await load('a', 'gpt2')
    await make({ 'a/train.txt': train.replaceAll('number', 'n0mber') })
    await utimes(join(folder, 'a/train.txt'), 1e9, 1e9)
    assert.match(textOf((await load('a', 'gpt2')).train), /n0mber/)
    assert.equal((await readdir(join(folder, 'cache/tokens'))).length, 2)
  })

  test('knows a text by its content, not by its size and times', async () => {
    const write = async (content: string) => {
      await make({ 'a.txt': content })
      await utimes(join(folder, 'a.txt'), 1e9, 1e9)
      return await load('a.txt', 'gpt2')
    }
    const first = await write(train)
    const second = await write(train.replaceAll('e', 'a'))
    assert.equal(textOf(second.train) + textOf(second.validation), train.replaceAll('e', 'a'))
    assert.notEqual(first.fingerprint, second.fingerprint)
    assert.equal((await write(train)).fingerprint, first.fingerprint)
    await make({ 'elsewhere/b.txt': train })
    assert.equal((await load('elsewhere/b.txt')).fingerprint, first.fingerprint)
  })
})

describe("nanoGPT's train.bin and val.bin", () => {
  test('are taken as they are', async () => {
    await make({ 'a/train.bin': uint16(gpt2.encode(train)), 'a/val.bin': uint16(gpt2.encode(validation)) })
    const corpus = await load('a')
    assert.equal(textOf(corpus.train), train)
    assert.equal(corpus.tokenizer.name, 'gpt2')
    assert.equal(corpus.bytesPerToken, Buffer.byteLength(validation) / corpus.validation.length)
  })

  test('are refused when they are of another vocabulary', async () => {
    const good = uint16(gpt2.encode(validation))
    await make({
      'a/train.bin': uint16([1, 2, 50257]),
      'a/val.bin': good,
      'b/train.bin': good,
      'b/val.bin': good,
    })
    await assert.rejects(
      load('a'),
      refusal(/train\.bin is not of a vocabulary of 50257 .* number 2 .* is 50257/),
    )
    await assert.rejects(load('b', 'bytes'), refusal(/not of a vocabulary of 256 tokens/))
    await make({ 'b/meta.pkl': 'x' })
    await assert.rejects(load('b'), refusal(/vocabulary of its own \(meta\.pkl\)/))
    await make({ 'a/train.bin': good.subarray(1) })
    await assert.rejects(load('a'), refusal(/odd number of bytes/))
  })

  test('are refused when they are not uint16', async () => {
    const tokens = gpt2.encode(train)
    const bigEndian = Buffer.alloc(4 * tokens.length)
    tokens.forEach((token, i) => bigEndian.writeUInt32BE(token, 4 * i))
    const wrong: [content: Uint8Array, message: RegExp][] = [
      [new Uint8Array(Uint32Array.from(tokens).buffer), /train\.bin has tokens of 32 bits, .*"<u4"/],
      [
        new Uint8Array(BigInt64Array.from(tokens, BigInt).buffer),
        /train\.bin has tokens of 64 bits, .*"<i8"/,
      ],
      [bigEndian, /train\.bin has tokens of 32 bits, .*">u4"/],
      [new Uint8Array(Float32Array.from(tokens).buffer), /train\.bin is not of a vocabulary/],
      [Buffer.from(train.replace(/[^ -~]/g, '').slice(0, 10_000)), /train\.bin has ASCII text, not tokens/],
    ]
    for (const [content, message] of wrong) {
      await make({ 'a/train.bin': content, 'a/val.bin': uint16(gpt2.encode(validation)) })
      await assert.rejects(load('a'), refusal(message))
    }
  })
})

describe('--data FILE.parquet', () => {
  test('takes its column of text, and holds out the last 5% of rows', async () => {
    await make({
      'a.parquet': table(
        [
          { name: 'n', data: rows.map((_, i) => i) },
          { name: 'text', data: rows },
        ],
        30,
      ),
    })
    const corpus = await load('a.parquet')
    assert.equal(Buffer.from([...corpus.train]).toString(), rows.slice(0, 95).join('\n') + '\n')
    assert.equal(Buffer.from([...corpus.validation]).toString(), rows.slice(95).join('\n') + '\n')
    assert.deepEqual(
      [...(await load('a.parquet', 'gpt2')).validation],
      [...gpt2.encode(rows.slice(95).join('\n') + '\n')],
    )
  })

  test('takes an only column of strings, whatever it is called', async () => {
    await make({ 'a.parquet': table([{ name: 'content', data: rows }]) })
    await load('a.parquet')
  })

  test('says what is wrong with one', async () => {
    const good = table([{ name: 'text', data: rows.map(row => row + Math.random().toString(36)) }])
    const corrupt = Uint8Array.from(good)
    corrupt.fill(0xff, 20, 200) // of the first page
    await make({
      'columns.parquet': table([
        { name: 'a', data: rows },
        { name: 'b', data: rows },
      ]),
      'numbers.parquet': table([{ name: 'text', data: rows.map((_, i) => i) }]),
      'few.parquet': table([{ name: 'text', data: rows.slice(0, 19) }]),
      'none.parquet': table([{ name: 'text', data: [], type: 'STRING' }]),
      'text.parquet': train,
      'cut.parquet': good.subarray(0, good.length / 2),
      'page.parquet': corrupt,
    })
    await assert.rejects(load('columns.parquet'), refusal(/no column "text".* its columns are a, b\./))
    await assert.rejects(load('numbers.parquet'), refusal(/no column "text".* its columns are text/))
    await assert.rejects(load('few.parquet'), refusal(/has 19 rows, .* it takes 20/))
    await assert.rejects(load('none.parquet'), refusal(/has no rows/))
    for (const name of ['text.parquet', 'cut.parquet', 'page.parquet']) {
      for (const tokenizer of ['bytes', 'gpt2']) {
        await assert.rejects(load(name, tokenizer), refusal(/is not a Parquet file, or is damaged \(.+\)/))
      }
    }
    await assert.rejects(
      load('nine.parquet'),
      refusal(/There is no file .*nine\.parquet: did you mean .*none\.parquet/),
    )
  })
})

describe('--data FILE.zip', () => {
  test('takes an archive of such a folder', async () => {
    await make({ 'a.zip': zipOf({ 'x/': '', 'x/wiki.train.raw': train, 'x/wiki.valid.raw': validation }) })
    const corpus = await load('a.zip')
    assert.equal(Buffer.from([...corpus.train]).toString(), train)
    assert.deepEqual([...(await load('a.zip', 'gpt2')).validation], [...gpt2.encode(validation)])
  })

  test('says what is wrong with one', async () => {
    const good = zipOf({ 'wiki.train.raw': train, 'wiki.valid.raw': validation })
    const corrupt = Uint8Array.from(good)
    corrupt.fill(0x55, 100, 140)
    await make({
      'half.zip': zipOf({ 'wiki.train.raw': train }),
      'other.zip': zipOf({ 'readme.md': train }),
      'text.zip': train,
      'cut.zip': good.subarray(0, -30),
      'page.zip': corrupt,
    })
    await assert.rejects(load('half.zip'), refusal(/half\.zip has wiki\.train\.raw but no wiki\.valid\.raw/))
    await assert.rejects(load('other.zip'), refusal(/other\.zip has no text to train on/))
    for (const name of ['text.zip', 'cut.zip', 'page.zip']) {
      for (const tokenizer of ['bytes', 'gpt2']) {
        await assert.rejects(load(name, tokenizer), refusal(/is not a \.zip archive, or is damaged \(.+\)/))
      }
    }
  })
})

describe('--data FILE.zip', () => {
  test('takes the last of several entries with one path', async () => {
    const stale: [string, string] = ['train.txt', 'stale '.repeat(100)]
    await make({ 'a.zip': zipOf([stale, ['valid.txt', validation], ['train.txt', train]]) })
    const corpus = await load('a.zip')
    assert.equal(Buffer.from([...corpus.train]).toString(), train)
  })

  test('refuses two texts of one name, and two pairs', async () => {
    await make({
      'folders.zip': zipOf({ 'train.txt': train, 'valid.txt': validation, 'old/train.txt': 'stale' }),
      'pairs.zip': zipOf({ 'train.txt': train, 'valid.txt': validation, 'val.txt': validation }),
      'pairs/train.txt': train,
      'pairs/valid.txt': validation,
      'pairs/wiki.train.raw': train,
      'pairs/wiki.valid.raw': validation,
    })
    await assert.rejects(
      load('folders.zip'),
      refusal(/folders\.zip has train\.txt and old\/train\.txt: give/),
    )
    await assert.rejects(
      load('pairs.zip'),
      refusal(/train\.txt and valid\.txt, and train\.txt and val\.txt: one/),
    )
    await assert.rejects(load('pairs'), refusal(/wiki\.train\.raw and wiki\.valid\.raw, and train\.txt/))
  })

  test('says what it cannot unpack', async () => {
    const files = { 'train.txt': train, 'valid.txt': validation }
    await make({
      'locked.zip': zipOf(files, { flags: 1 }),
      'strong.zip': zipOf(files, { flags: 0x41 }),
      'lzma.zip': zipOf(files, { method: 14 }),
    })
    await assert.rejects(load('locked.zip'), refusal(/locked\.zip is encrypted: unpack it/))
    await assert.rejects(load('strong.zip'), refusal(/strong\.zip is encrypted: unpack it/))
    await assert.rejects(load('lzma.zip'), refusal(/train\.txt in .*lzma\.zip is compressed by method 14/))
  })

  test('refuses an entry with more or less than it says', async () => {
    for (const claim of [train.length - 100, train.length + 100]) {
      const bytes = Buffer.from(zipOf({ 'train.txt': train, 'valid.txt': validation }))
      bytes.writeUInt32LE(claim, bytes.indexOf('PK\x01\x02') + 24)
      await make({ 'a.zip': bytes })
      for (const tokenizer of ['bytes', 'gpt2']) {
        await assert.rejects(load('a.zip', tokenizer), refusal(/a\.zip .* is damaged \(.+\)/))
      }
    }
  })
})

describe('a text that is longer than what is kept in memory', () => {
  const all = { 'train.txt': train, 'valid.txt': validation }
  const loadFrom = (name: string, tokenizer: string, inMemory: number) =>
    loadCorpus({
      data: join(folder, name),
      tokenizer,
      sequenceLength: 32,
      cacheFolder: join(folder, 'cache'),
      inMemory,
    })

  for (const name of ['a', 'a.txt', 'a.zip', 'a.parquet']) {
    for (const tokenizer of ['bytes', 'gpt2']) {
      test(`gives the same batches (${name}, ${tokenizer})`, async () => {
        await make({
          'a/train.txt': train,
          'a/valid.txt': validation,
          'a.txt': train + validation,
          'a.zip': zipOf(all),
          'a.parquet': table([{ name: 'text', data: rows }]),
        })
        const short = await loadFrom(name, tokenizer, Infinity)
        for (const again of [1, 2]) {
          const long = await loadFrom(name, tokenizer, 100)
          assert.ok(!(long.train instanceof Uint8Array || long.train instanceof Uint16Array), `time ${again}`)
          assert.equal(long.bytesPerToken, short.bytesPerToken)
          assert.match(long.fingerprint, /^[0-9a-f]{16}$/)
          assert.equal(long.fingerprint, short.fingerprint)
          assert.deepEqual([...long.train], [...short.train])
          assert.deepEqual([...long.validation], [...short.validation])
          for (const tokensSeen of [0, 96, 4096]) {
            const batches = [short, long].map(corpus =>
              sampleBatch(corpus.train, 3, 32, { seed: 5, tokensSeen }),
            )
            const [inMemory, fromFile] = batches.map(({ inputs, targets }) => [inputs.data, targets.data])
            assert.deepEqual(fromFile, inMemory)
          }
          const [inMemory, fromFile] = [short, long].map(corpus =>
            [...validationBatches(corpus.validation, 2, 32)].map(({ inputs, targets }) => [
              inputs.data,
              targets.data,
            ]),
          )
          assert.deepEqual(fromFile, inMemory)
        }
      })
    }
  }

  test("gives the same batches (nanoGPT's files)", async () => {
    await make({ 'a/train.bin': uint16(gpt2.encode(train)), 'a/val.bin': uint16(gpt2.encode(validation)) })
    const short = await loadFrom('a', 'gpt2', Infinity)
    const long = await loadFrom('a', 'gpt2', 100)
    assert.ok(!(long.train instanceof Uint16Array))
    assert.equal(textOf(long.train), train)
    assert.equal(textOf(long.validation), validation)
    assert.equal(long.bytesPerToken, short.bytesPerToken)
    assert.equal(long.fingerprint, short.fingerprint)
  })

  test("is refused when it has other numbers than nanoGPT's files", async () => {
    const good = uint16(gpt2.encode(validation))
    const wide = new Uint8Array(Uint32Array.from(gpt2.encode(train)).buffer)
    await make({
      'wide/train.bin': wide,
      'wide/val.bin': good,
      'other/train.bin': uint16([...gpt2.encode(train), 50257]),
      'other/val.bin': good,
    })
    await assert.rejects(loadFrom('wide', 'gpt2', 100), refusal(/train\.bin has tokens of 32 bits/))
    const count = gpt2.encode(train).length
    await assert.rejects(
      loadFrom('other', 'gpt2', 100),
      refusal(new RegExp(`not of a vocabulary of 50257 .* number ${count} .* is 50257`)),
    )
  })

  test('is read whole once, and again only when its file was altered', async () => {
    const large = 'All of it. '.repeat(2_000_000)
    await make({
      'a.txt': large,
      'a.zip': zipOf({ 'train.txt': large, 'valid.txt': validation }),
      'a/train.bin': uint16({
        *[Symbol.iterator]() {
          for (let i = 0; i < 9_000_000; i++) yield i % 50257
        },
      }),
      'a/val.bin': uint16(gpt2.encode(validation)),
    })
    const told: string[] = []
    const loadAll = async () => {
      told.length = 0
      const corpora: Corpus[] = []
      for (const data of ['a.txt', 'a.zip', 'a']) {
        corpora.push(
          await loadCorpus({
            data: join(folder, data),
            sequenceLength: 32,
            cacheFolder: join(folder, 'cache'),
            inMemory: 100,
            report: message => told.push(message),
          }),
        )
      }
      return corpora
    }
    const soon = () => new Promise(done => setTimeout(done, 2100)) // until times tell another change
    await soon()
    await loadAll()
    await soon()
    await loadAll()
    const [, zip] = await loadAll()
    assert.deepEqual(told, [])
    assert.equal(zip?.train.length, large.length)

    const tokens = join(folder, 'cache/tokens')
    const name = (await readdir(tokens)).find(name => /^a\.zip.*\.train\./.test(name))
    assert.ok(name)
    const file = await open(join(tokens, name), 'r+')
    await file.write('X', 5000)
    await file.close()
    const again = await loadAll()
    assert.match(told.join(), /Unpacking a\.zip/)
    assert.equal(Buffer.from(again[1]?.train.slice(3970, 3990) ?? []).toString(), large.slice(3970, 3990))
  })

  test('is refused when it changes while it is unpacked, but not when it is only touched', async () => {
    const large = 'All of it. '.repeat(2_000_000)
    const path = join(folder, 'a.zip')
    const loadAnd = async (act: () => void) =>
      await loadCorpus({
        data: path,
        sequenceLength: 32,
        cacheFolder: join(folder, 'cache'),
        inMemory: 100,
        report: message => {
          if (message.startsWith('Unpacking')) act()
        },
      })
    await make({ 'a.zip': zipOf({ 'train.txt': large, 'valid.txt': validation }) })
    await assert.rejects(
      loadAnd(() => appendFileSync(path, 'more')),
      refusal(/a\.zip was changed while it was read/),
    )
    assert.deepEqual(await readdir(join(folder, 'cache/tokens')), [])
    await make({ 'a.zip': zipOf({ 'train.txt': large, 'valid.txt': validation }) })
    const corpus = await loadAnd(() => utimesSync(path, 1e9, 1e9))
    assert.equal(corpus.train.length, large.length)
  })

  test('is refused once it changes', async () => {
    await make({ 'a.txt': train })
    const corpus = await loadFrom('a.txt', 'bytes', 100)
    assert.equal(Buffer.from(corpus.train.slice(5, 9)).toString(), train.slice(5, 9))
    const cut = train.slice(0, 3000)
    await make({ 'a.txt': cut })
    assert.throws(() => corpus.train.slice(5, 9), refusal(/a\.txt was changed while it was read/))
    assert.throws(() => corpus.train.slice(3000, 3010), refusal(/a\.txt was changed while it was read/))
  })

  test(
    'is read on when its file is deleted',
    { skip: process.platform === 'win32' && 'not for Windows' },
    async () => {
      await make({ 'a.zip': zipOf(all) })
      const corpus = await loadFrom('a.zip', 'bytes', 100)
      await rm(join(folder, 'a.zip'))
      await rm(join(folder, 'cache'), { recursive: true })
      assert.equal(Buffer.from(corpus.train.slice(0, corpus.train.length)).toString(), train)
    },
  )
})

describe('--tokenizer gpt2', () => {
  test('takes a text file, cut between characters', async () => {
    const text = 'naïve 合衆国 🙂 '.repeat(200)
    await make({ 'a.txt': text })
    const corpus = await load('a.txt', 'gpt2')
    assert.equal(textOf(corpus.train) + textOf(corpus.validation), text)
    assert.ok(!textOf(corpus.validation).includes('\ufffd'))
    assert.ok(corpus.bytesPerToken > 1)
  })

  test('refuses what is no text, and leaves no half-made cache', async () => {
    await make({
      'latin1.txt': Buffer.from('caf\xe9 '.repeat(1000), 'latin1'),
      'dna.txt': 'ACGT'.repeat(10_000),
    })
    await assert.rejects(load('latin1.txt', 'gpt2'), refusal(/not UTF-8/))
    await assert.rejects(load('dna.txt', 'gpt2'), refusal(/38,000 characters without a space/))
    assert.deepEqual(await readdir(join(folder, 'cache/tokens')), [])
    assert.equal((await load('latin1.txt')).train.length, 4750)
  })

  test('says so when the cache cannot be written', async () => {
    await make({ 'a.txt': train, cache: 'a file where a folder should be' })
    await assert.rejects(load('a.txt', 'gpt2'), refusal(/cache.* could not be written \(/))
  })
})
