import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { loadCorpus } from '../../data/corpus.ts'
import { openParquet } from '../../data/sources/parquet/parquet.ts'
import { refusal } from '../support/refusal.ts'

const golden = join(import.meta.dirname, '../golden/parquet')
const lines = (await readFile(join(golden, 'rows.txt'), 'utf8')).trimEnd().split('\n')
const rows: (string | null)[] = lines.map(line => JSON.parse(line))

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-parquet-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

/** The rows that are there, a line each. */
function textOf(some: readonly (string | null)[]): string {
  return some.flatMap(row => (row === null ? [] : `${row}\n`)).join('')
}

async function read(path: string, range: { start?: number; end?: number } = {}): Promise<string> {
  const pieces: Uint8Array[] = []
  for await (const piece of (await openParquet(path, range)).pieces()) pieces.push(piece)
  return Buffer.concat(pieces).toString()
}

const withRows = (await readdir(golden)).filter(
  name => name.endsWith('.parquet') && !/^(json|lists?)\./.test(name),
)

describe('a Parquet file as PyArrow and DuckDB write it', () => {
  for (const name of withRows) {
    test(`${name} has the text of its rows`, async () => {
      assert.equal(await read(join(golden, name)), textOf(rows))
      for (const cut of [1, 34, 35, 50]) {
        assert.equal(await read(join(golden, name), { end: cut }), textOf(rows.slice(0, cut)))
        assert.equal(await read(join(golden, name), { start: cut }), textOf(rows.slice(cut)))
      }
    })
  }

  test('has JSON as it is stored', async () => {
    const objects = rows.map((_, i) => `{"n": ${i}, "é": "合"}`)
    assert.equal(await read(join(golden, 'json.parquet')), textOf(objects))
  })

  test('is refused where the text is in lists, and its columns are named', async () => {
    await assert.rejects(
      read(join(golden, 'lists.parquet')),
      refusal(
        /no column "text" .* columns are id, conversations \(strings in lists or structs\)\. Write .* a column called text/,
      ),
    )
    await assert.rejects(
      read(join(golden, 'list.parquet')),
      refusal(/columns are text \(strings in lists or structs\)/),
    )
  })

  test('is refused when it is encrypted', async () => {
    const bytes = await readFile(join(golden, 'plain.parquet'))
    bytes.write('PARE', bytes.length - 4)
    await writeFile(join(folder, 'a.parquet'), bytes)
    await assert.rejects(read(join(folder, 'a.parquet')), refusal(/is encrypted/))
  })

  test('is refused when it changes while it is read', async () => {
    const path = join(folder, 'a.parquet')
    await writeFile(path, await readFile(join(golden, 'plain.parquet')))
    const text = await openParquet(path)
    await writeFile(path, await readFile(join(golden, 'dictionary.parquet')))
    await assert.rejects(
      async () => {
        for await (const piece of text.pieces()) assert.ok(piece)
      },
      refusal(/a\.parquet was changed while it was read/),
    )
  })
})

/** Whole numbers below `limit`, the same ones each time. */
function draws(seed: number): (limit: number) => number {
  let state = seed
  return limit => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

describe('a Parquet file with a bit flipped', () => {
  /** What becomes of a file's text: the same, other text, or a refusal in one sentence. */
  async function outcome(bytes: Uint8Array, text: string): Promise<'same' | 'other' | 'refused'> {
    const path = join(folder, 'a.parquet')
    await writeFile(path, bytes)
    try {
      const { train, validation } = await loadCorpus({ data: path, sequenceLength: 8, cacheFolder: folder })
      return Buffer.from([...train, ...validation]).toString() === text ? 'same' : 'other'
    } catch (error) {
      return refusal(/./)(error) && 'refused'
    }
  }

  for (const name of ['checked-plain', 'checked-zstd', 'checked-snappy-v2']) {
    test(`is refused or harmless where pages have checksums (${name})`, async () => {
      const good = await readFile(join(golden, `${name}.parquet`))
      const draw = draws(name.length)
      const found = { same: 0, other: 0, refused: 0 }
      for (let i = 0; i < 100; i++) {
        const bytes = Uint8Array.from(good)
        bytes[draw(bytes.length)]! ^= 1 << draw(8)
        found[await outcome(bytes, textOf(rows))]++
      }
      assert.equal(found.other, 0)
      assert.ok(found.refused > 30, `${found.refused} of 100 refused`)
    })
  }

  for (const name of ['plain', 'dictionary', 'snappy', 'zstd', 'gzip', 'delta-byte-array', 'enum']) {
    test(`gives other text only from its pages where they have none (${name})`, async () => {
      const good = await readFile(join(golden, `${name}.parquet`))
      const footer = good.length - 8 - good.readUInt32LE(good.length - 8)
      const draw = draws(name.length)
      for (let i = 0; i < 60; i++) {
        const bytes = Uint8Array.from(good)
        const place = i % 2 === 0 ? draw(footer) : footer + draw(bytes.length - footer)
        bytes[place]! ^= 1 << draw(8)
        const result = await outcome(bytes, textOf(rows))
        if (result === 'other') assert.ok(place < footer, `byte ${place} of the footer`)
      }
    })
  }

  test('is refused when its text is no UTF-8, or its rows are other ones than it says', async () => {
    const good = await readFile(join(golden, 'plain.parquet'))
    const row = Buffer.from(rows[0] ?? '')
    const first = good.indexOf(Buffer.concat([Uint8Array.of(row.length, 0, 0, 0), row]))
    assert.ok(first > 0)
    const notText = Uint8Array.from(good)
    notText[first + 4]! ^= 0x80
    assert.equal(await outcome(notText, textOf(rows)), 'refused')
    const longer = Uint8Array.from(good)
    longer[first]! ^= 1 // the length of the first string
    assert.equal(await outcome(longer, textOf(rows)), 'refused')
  })

  test('is refused when it is cut', async () => {
    const good = await readFile(join(golden, 'checked-zstd.parquet'))
    for (const length of [1, 4, 11, 12, 100, good.length - 1]) {
      assert.equal(await outcome(good.subarray(0, length), textOf(rows)), 'refused')
    }
  })
})
