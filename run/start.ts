/** The script of npm start. It runs the experiment that the first argument names, that of the run to resume, or main.ts. */
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
// The experiment sees its own arguments, as if it had been started directly.
process.argv = [process.argv[0], path, ...args.filter((_, place) => place !== named?.place)]
await import(pathToFileURL(path).href)
