import assert from 'node:assert/strict'
import { appendFile, mkdtemp, open, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { contentOf, refuseChanged } from '../../data/cache/content.ts'
import { findFile } from '../../data/sources/local-file.ts'
import { UserError } from '../../common/errors.ts'

let folder = ''
let path = ''
let reads: string[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hlb-gpt-content-'))
  path = join(folder, 'large.txt')
  reads = []
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const size = 20_000_000
const hashOf = (content: Uint8Array) => createHash('sha256').update(content).digest('hex')
const content = async () =>
  await contentOf(await findFile(path), join(folder, 'cache'), { report: message => reads.push(message) })

/** Writes a large file, and waits until its times would tell another change. */
async function write(byte: number): Promise<string> {
  const bytes = Buffer.alloc(size, byte)
  await writeFile(path, bytes)
  await utimes(path, 1e9, 1e9)
  await new Promise(done => setTimeout(done, 2100))
  return hashOf(bytes)
}

describe('the content of a large file', () => {
  test('is read once, and its hash is kept', async () => {
    const expected = await write(1)
    assert.equal(await content(), expected)
    assert.equal(await content(), expected)
    assert.equal(reads.length, 1)
    assert.match(reads[0]!, /^Reading .*large\.txt once/)
  })

  test('is read again when a byte between the samples was altered and the times were set back', async () => {
    const before = await write(1)
    assert.equal(await content(), before)
    const file = await open(path, 'r+')
    await file.write(Buffer.of(2), 0, 1, 5000)
    await file.close()
    await utimes(path, 1e9, 1e9)
    assert.notEqual(await content(), before)
  })

  test('is read again when the file was replaced', async () => {
    const before = await write(1)
    assert.equal(await content(), before)
    await rename(path, join(folder, 'old'))
    assert.notEqual(before, await write(2))
    assert.equal(await content(), hashOf(Buffer.alloc(size, 2)))
  })

  test('is read again while its times are too new to tell another change', async () => {
    await writeFile(path, Buffer.alloc(size, 1))
    await content()
    await content()
    assert.equal(reads.length, 2)
  })

  test('is read again when the note of it was altered, or cannot be kept', async () => {
    const expected = await write(1)
    await content()
    const notes = join(folder, 'cache', 'contents')
    const note = join(notes, (await readdir(notes))[0]!)
    await writeFile(note, (await readFile(note, 'utf8')).replace(expected, hashOf(Buffer.of(1))))
    assert.equal(await content(), expected)
    assert.equal(reads.length, 2)
    await rm(join(folder, 'cache'), { recursive: true })
    await writeFile(join(folder, 'cache'), 'a file where a folder should be')
    assert.equal(await content(), expected)
  })

  test('is forgotten once the file is gone', async () => {
    await write(1)
    await content()
    await rename(path, join(folder, 'other.txt'))
    path = join(folder, 'other.txt')
    await new Promise(done => setTimeout(done, 2100)) // the renaming counts as a change
    await content()
    const notes = join(folder, 'cache', 'contents')
    const names = await readdir(notes)
    assert.equal(names.length, 1)
    assert.match(await readFile(join(notes, names[0]!), 'utf8'), /other\.txt/)
  })
})

test('a file that changes while it is read is refused, one that is only renamed or touched is not', async () => {
  await writeFile(path, 'some text')
  const file = await findFile(path)
  const known = await content()
  await utimes(path, 1e9, 1e9)
  await refuseChanged(file, known)
  await appendFile(path, ' and more')
  await assert.rejects(refuseChanged(file, known), error => {
    assert.ok(error instanceof UserError)
    assert.match(error.message, /large\.txt was changed while it was read: start again/)
    return true
  })
})
