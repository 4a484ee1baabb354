/** Writes a text, token by token: the sample that a run ends with. */
import { type Inputs, type NDArray, array } from '../engine/index.ts'
import type { Tokenizer } from '../data/tokens/tokenizer.ts'
import type { Run } from './run.ts'
import { textWriter } from './terminal/text-writer.ts'

/** The text to write, and how to find each of its tokens. */
export type Sampling = {
  readonly tokenizer: Tokenizer
  /** Tokens that the text starts with. */
  readonly prompt: readonly number[]
  /** Tokens to add. */
  readonly count: number
  /** Returns the logits of the token that follows these. */
  readonly predict: (tokens: readonly number[]) => Promise<{ readonly logits: NDArray }>
  /** For a network with a cache: takes in the last of these tokens, each of the prompt's but its last in turn. */
  readonly remember?: (tokens: readonly number[]) => Promise<void>
  /** Draws the token at this place of the text. */
  readonly draw: (logits: NDArray['data'], place: number) => number
}

/** Prints the prompt and what follows it, and keeps the text with the run. Ctrl-C ends it early. */
export async function sampleText(
  run: Pick<Run, 'interrupted' | 'sampled'>,
  { tokenizer, prompt, count, predict, remember, draw }: Sampling,
): Promise<void> {
  const tokens: number[] = []
  for (const token of prompt) {
    if (remember && tokens.length > 0 && count > 0 && !run.interrupted) await remember(tokens)
    tokens.push(token)
  }
  const end = prompt.length + count
  const next = async () => (tokens.length < end && !run.interrupted ? await predict(tokens) : undefined)

  // Compiles before the prompt is printed.
  let predicted = await next()
  const text = textWriter(tokenizer.decoder())
  text.write(tokens)
  while (predicted) {
    const token = draw(predicted.logits.data, tokens.length)
    tokens.push(token)
    text.write([token])
    predicted = await next()
  }
  await run.sampled(text.end())
}

/** The last tokens of a text, [1, count]. A shorter text has zeros in front. */
export function lastTokens(tokens: readonly number[], count: number): NDArray {
  const start = tokens.length - count
  return array(
    Int32Array.from({ length: count }, (_, place) => tokens[start + place] ?? 0),
    [1, count],
  )
}

/**
 * Inputs for a network without a cache, as `tokens` [1, length] and `last` [1]: at most the last `longest` tokens with
 * zeros behind them, and the place of the last token. Lengths are powers of two, so that few programs are compiled.
 */
export function paddedTokens(text: readonly number[], longest: number): Inputs {
  const recent = text.slice(-longest)
  const length = Math.min(longest, 2 ** Math.ceil(Math.log2(recent.length)))
  const tokens = Int32Array.from({ length }, (_, place) => recent[place] ?? 0)
  return { tokens: array(tokens, [1, length]), last: array(Int32Array.of(recent.length - 1)) }
}
