import { appendFileSync } from 'node:fs'
import { UserError, reasonOf } from './errors.ts'

/** Appends a record to a file of JSON lines, if there is one. Throws UserError when it cannot be written. */
export function logTo(file: string | undefined, record: Readonly<Record<string, number>>): void {
  if (file === undefined) return
  try {
    appendFileSync(file, `${JSON.stringify(record)}\n`)
  } catch (error) {
    throw new UserError(`Cannot write to ${file}: ${reasonOf(error)}`)
  }
}
