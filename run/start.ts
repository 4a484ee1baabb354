/** What npm start runs: the experiment that the first argument names, else that of the run in question, else main.ts. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UserError, handleErrors } from './errors.ts'
import { resumed } from './resume.ts'

handleErrors()
const project = resolve(import.meta.dirname, '..')
const args = process.argv.slice(2)
const named = args[0]?.endsWith('.ts') ? args[0] : undefined
const run = named === undefined ? await resumed(args) : undefined
const path =
  named === undefined ? resolve(project, run?.config.environment.script ?? 'main.ts') : resolve(named)
if (!existsSync(path)) {
  throw new UserError(
    run
      ? `The run ${run.config.name} is one of ${run.config.environment.script}, which is there no more.`
      : `There is no experiment ${named}: main.ts is one, and baselines/ has others.`,
  )
}
// The experiment finds its own options, as if it had been started itself.
process.argv.splice(1, named === undefined ? 1 : 2, path)
await import(pathToFileURL(path).href)
