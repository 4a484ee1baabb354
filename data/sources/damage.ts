/** Turns the errors of file parsers into sentences for the user. */
import { codeOf, reasonOf, UserError } from '../../common/errors.ts'
import { changed, findFile, type LocalFile } from './local-file.ts'

/** The UserError for a file that a parser failed on, whatever it threw. */
export async function refusalOf(file: LocalFile, kind: string, error: unknown): Promise<UserError> {
  if (error instanceof UserError) return error
  const { path } = file
  try {
    if ((await findFile(path)).version !== file.version) return changed(path)
  } catch (gone) {
    if (gone instanceof UserError) return gone
  }
  if (error instanceof Error && 'syscall' in error && codeOf(error) !== undefined) {
    return new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
  // A parser's own failure, such as an index out of range, would tell the user nothing.
  const isInternal = error instanceof TypeError || error instanceof RangeError
  const reason = isInternal
    ? 'its description of its own structure is wrong'
    : reasonOf(error).split('\n')[0]!
  return new UserError(`${path} is not a ${kind}, or is damaged (${reason}).`)
}
