/** Tokenizes the prompt of a sample. */
import { reasonOf, UserError } from '../../common/errors.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * The tokens that a sample starts with: those of the prompt, or of a line feed if it is empty. Throws a UserError if the
 * tokenizer cannot encode it.
 */
export function promptTokens(tokenizer: Tokenizer, prompt: string): number[] {
  try {
    return [...tokenizer.encode(prompt || '\n')]
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    throw new UserError(`--prompt cannot be made into tokens. ${reasonOf(error)}`)
  }
}
