import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { makeFolders } from '../../common/make-folders.ts'

test('folders are made with those above them, or the system says why not', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'hlb-gpt-'))
  try {
    const deep = join(folder, 'a', 'b', 'c')
    await Promise.all([makeFolders(deep), makeFolders(deep)])
    await makeFolders(deep)
    assert.ok(statSync(deep).isDirectory())
    writeFileSync(join(folder, 'file'), '')
    await assert.rejects(makeFolders(join(folder, 'file')), { code: 'EEXIST' })
    await assert.rejects(makeFolders(join(folder, 'file', 'below')), { code: 'EEXIST' })
    // Here Node's own way of making folders never ends.
    if (process.platform === 'linux')
      await assert.rejects(makeFolders('/proc/none/at/all'), { code: 'ENOENT' })
  } finally {
    rmSync(folder, { recursive: true })
  }
})
