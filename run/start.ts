/** What npm start runs: main.ts, or the experiment that the first argument names. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [first] = process.argv.slice(2)
const named = first?.endsWith('.ts') ? first : undefined
const path = named === undefined ? resolve(import.meta.dirname, '../main.ts') : resolve(named)
if (existsSync(path)) {
  // The experiment finds its own options, as if it had been started itself.
  process.argv.splice(1, named === undefined ? 1 : 2, path)
  await import(pathToFileURL(path).href)
} else {
  console.error(`There is no experiment ${named}: main.ts is one, and baselines/ has others.`)
  process.exitCode = 1
}
