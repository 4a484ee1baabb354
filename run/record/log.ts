/** Writes --log: the rows of the table as JSON lines. */
import { appendFileSync } from 'node:fs'
import { UserError, reasonOf } from '../../common/errors.ts'
import { showJson } from '../../common/json.ts'
import { snakeCase } from '../../common/names.ts'

/**
 * Appends a row to a file of JSON lines, with names in snake case, and NaN and the infinities as strings. Does nothing
 * without a file. Throws a UserError if the file cannot be written.
 */
export function logTo(file: string | undefined, row: Readonly<Record<string, number | undefined>>): void {
  if (file === undefined) return
  const record = Object.fromEntries(Object.entries(row).map(([name, value]) => [snakeCase(name), value]))
  try {
    appendFileSync(file, `${showJson(record)}\n`)
  } catch (error) {
    throw new UserError(`${file} cannot be written to (${reasonOf(error)}).`)
  }
}
