import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { type Order, importFaults } from './import-faults.ts'

const order: Order = { '.': ['low', ['left', 'right'], 'main.ts'], left: ['inner', 'outer.ts'] }

/** The faults of a project with these files. */
async function faultsOf(files: Readonly<Record<string, string>>): Promise<string[]> {
  const root = await mkdtemp(join(tmpdir(), 'imports-'))
  try {
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(root, name)), { recursive: true })
      await writeFile(join(root, name), text)
    }
    return await importFaults(root, order)
  } finally {
    await rm(root, { recursive: true })
  }
}

const sound = {
  'low/a.ts': 'export type A = 1\n',
  'left/inner/b.ts': "import type { A } from '../../low/a.ts'\nexport const b: A = 1\n",
  'left/outer.ts': "export { b } from './inner/b.ts'\n",
  'right/c.js': "import '../low/a.ts'\n",
  'main.ts': "import {\n  b,\n} from './left/outer.ts'\nvoid import('./right/c.js')\nimport 'node:fs'\n",
  'node_modules/x/x.ts': "import './x.ts'\n",
}

test('imports in order are no fault', async () => {
  assert.deepEqual(await faultsOf(sound), [])
})

test('a circle is a fault, also one through types, import() and export from', async () => {
  const circle = {
    'low/a.ts': "export type A = import('./b.ts').B\n",
    'low/b.ts': "import {\n  type C,\n} from './c.ts'\nexport type B = C\n",
    'low/c.ts': "export type { A as C } from './a.ts'\n",
    'low/d.ts': "import './a.ts'\n",
  }
  const one = 'low/a.ts imports low/b.ts imports low/c.ts imports low/a.ts: that is a circle.'
  assert.deepEqual(await faultsOf(circle), [one])
  const two = { ...circle, 'right/x.ts': "import './y.ts'\n", 'right/y.ts': "void import('./x.ts')\n" }
  const other = 'right/x.ts imports right/y.ts imports right/x.ts: that is a circle.'
  assert.deepEqual(await faultsOf(two), [one, other])
})

test('an import of what is above or beside is a fault', async () => {
  const planted = async (name: string, text: string) => faultsOf({ ...sound, [name]: text })
  assert.deepEqual(await planted('low/d.ts', "import type { b } from '../left/outer.ts'\n"), [
    'low/d.ts imports left/outer.ts, but left is above low.',
  ])
  assert.deepEqual(await planted('right/d.ts', "import { b } from '../left/outer.ts'\n"), [
    'right/d.ts imports left/outer.ts, but left is beside right.',
  ])
  assert.deepEqual(await planted('left/inner/d.ts', "void import('../outer.ts')\n"), [
    'left/inner/d.ts imports left/outer.ts, but left/outer.ts is above left/inner.',
  ])
})

test('a folder or file without a place in the order is a fault', async () => {
  assert.deepEqual(await faultsOf({ ...sound, 'extra/d.ts': '', 'left/d.ts': '' }), [
    'extra has no place in the order of imports: add it.',
    'left/d.ts has no place in the order of imports: add it.',
  ])
})
