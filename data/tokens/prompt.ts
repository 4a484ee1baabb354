import { reasonOf, UserError } from '../../common/errors.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * The tokens that a sample starts with: the prompt's, all of it ordinary text, or a line feed where it is empty. Throws
 * UserError if the tokenizer cannot take it.
 */
export function promptTokens(tokenizer: Tokenizer, prompt: string): number[] {
  try {
    return [...tokenizer.encode(prompt || '\n')]
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    throw new UserError(`--prompt cannot be made into tokens. ${reasonOf(error)}`)
  }
}
