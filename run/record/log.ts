import { appendFileSync } from 'node:fs'
import { UserError, reasonOf } from '../../common/errors.ts'
import { showJson } from '../../common/json.ts'
import { snakeCase } from '../../common/nearest-name.ts'

/**
 * Appends a record to a file of JSON lines, if there is one, with its names in snake case. NaN and the infinities are
 * strings in it. Throws UserError when it cannot be written.
 */
export function logTo(file: string | undefined, row: Readonly<Record<string, number | undefined>>): void {
  if (file === undefined) return
  const record = Object.fromEntries(Object.entries(row).map(([name, value]) => [snakeCase(name), value]))
  try {
    appendFileSync(file, `${showJson(record)}\n`)
  } catch (error) {
    throw new UserError(`Cannot write to ${file}: ${reasonOf(error)}`)
  }
}
