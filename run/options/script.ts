/** Finds the script that a command line starts. A run's folder may come from someone else, so no code in it is run. */
import { realpathSync, statSync } from 'node:fs'
import { basename, join, relative, resolve, sep } from 'node:path'
import { UserError } from '../../common/errors.ts'

const project = resolve(import.meta.dirname, '../..')

/** The script that a command line names before its options, and its index among the arguments. */
export function namedScript(args: readonly string[]): { path: string; place: number } | undefined {
  // npm run sample puts --no-train first.
  const place = args[0] === '--no-train' ? 1 : 0
  const path = args.at(place)
  return path !== undefined && !path.startsWith('-') && path.endsWith('.ts') ? { path, place } : undefined
}

/** The path of a script that the user names. Throws a UserError if it is not a file. */
export function scriptAt(path: string): string {
  if (isFile(resolve(path))) return resolve(path)
  throw new UserError(`There is no experiment ${path}: main.ts is one, and baselines/ has others.`)
}

/**
 * The path of the script that a run was started with, by its name in this project. Throws a UserError if the project has
 * no such script: only the user may name a script elsewhere.
 */
export function scriptOf(run: string, script: string, runs: string): string {
  if (!isName(script) || isWithin(runs, script)) {
    throw new UserError(
      `The run ${run} says that it is one of ${script}, which is no script of this project: to go on with it, or to ` +
        `sample from it, name the script ahead of all options, as in npm start -- path/to/script.ts --resume ${run}`,
    )
  }
  const path = join(project, script)
  if (!isFile(path)) throw new UserError(`The run ${run} is one of ${script}, which is there no more.`)
  if (realpathSync.native(path) !== join(realpathSync.native(project), script)) {
    throw new UserError(
      `The run ${run} is one of ${script}, which is a link: name the script ahead of all options, as in npm start -- ` +
        `${script} --resume ${run}`,
    )
  }
  return path
}

/** Whether a run of the script `saved` can be resumed with `now`: scripts outside the project may have been moved. */
export const isSameScript = (saved: string, now: string): boolean =>
  saved === now || (!isName(saved) && basename(saved) === basename(now))

/** Whether a name can be that of a script in the project: main.ts, baselines/hlb-gpt-0.1.ts, ideas/wide.ts. */
function isName(script: string): boolean {
  const parts = script.split('/')
  const isPlain = parts.every(part => /^[^.\\:\p{Cc}][^\\:\p{Cc}]*$/u.test(part) && part !== 'node_modules')
  return isPlain && parts[0] !== 'runs' && script.endsWith('.ts')
}

/** Whether a script is inside the folder of runs. The project's own scripts are not, even if that folder contains them. */
function isWithin(runs: string, script: string): boolean {
  if (script === 'main.ts' || script.startsWith('baselines/')) return false
  const path = relative(resolve(runs), join(project, script))
  return path !== '..' && !path.startsWith(`..${sep}`)
}

const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false
