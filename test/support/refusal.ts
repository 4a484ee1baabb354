/** What assert.rejects and assert.throws take to check how an input is refused. */
import assert from 'node:assert/strict'
import { UserError } from '../../common/errors.ts'

/** Accepts a UserError whose message is one line and matches. */
export function refusal(message: RegExp): (error: unknown) => true {
  return error => {
    assert.ok(error instanceof UserError, String(error))
    assert.match(error.message, message)
    assert.doesNotMatch(error.message, /\n/)
    return true
  }
}
