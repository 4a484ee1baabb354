/** Errors for the user, and what a caught value tells. */
import { printableLines } from './printable.ts'

/** A mistake that the user can correct. Only the message is shown: it says what is wrong and what to do. */
export class UserError extends Error {
  override name = 'UserError'

  constructor(message: string) {
    super(printableLines(message)) // it may contain a file name that somebody else chose
  }
}

/** The message of a caught value, whatever its type, for use inside another message. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The code of a system error, such as ENOENT or EACCES; undefined for other errors. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
