import { codeOf, reasonOf, UserError } from '../../common/errors.ts'
import { changed, findFile, type LocalFile } from './local-file.ts'

/** What to say of a file that its parser gave up on: one sentence, whatever it threw. */
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
  // What a parser trips over, such as an index out of range, tells a user nothing.
  const tripped = error instanceof TypeError || error instanceof RangeError
  const reason = tripped ? 'what it says of its own structure cannot be' : reasonOf(error).split('\n')[0]!
  return new UserError(`${path} is not a ${kind}, or is damaged (${reason}).`)
}
