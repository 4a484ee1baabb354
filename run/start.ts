/** What npm start runs: the experiment that the first argument names, else that of the run in question, else main.ts. */
import { pathToFileURL } from 'node:url'
import { handleErrors } from './process/handle-errors.ts'
import { resumed } from './options/resume.ts'
import { namedScript, scriptAt, scriptOf } from './options/script.ts'

handleErrors()
const args = process.argv.slice(2)
const named = namedScript(args)
const run = named === undefined ? await resumed(args) : undefined
const path = named
  ? scriptAt(named.path)
  : scriptOf(run?.config.name ?? '', run?.config.environment.script ?? 'main.ts', run?.runs ?? '')
// The experiment finds its own options, as if it had been started itself.
process.argv = [process.argv[0], path, ...args.filter((_, place) => place !== named?.place)]
await import(pathToFileURL(path).href)
