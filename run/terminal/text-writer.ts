/** Prints a text while its tokens arrive. */
import { columnsOf } from '../../common/progress.ts'
import { wrapText } from './wrap.ts'

/** Prints tokens as text. */
export type TextWriter = {
  write(tokens: Iterable<number>): void
  /** Ends the last line and returns the whole text. */
  end(): string
}

/** Wraps lines at the terminal's width, 80 at most. `decode` holds back a character until its last token is there. */
export function textWriter(decode: (tokens: Iterable<number>) => string): TextWriter {
  const width = Math.min(80, columnsOf(process.stdout) ?? 80)
  const lines = wrapText(part => process.stdout.write(part), width)
  let text = ''
  return {
    write(tokens) {
      const part = decode(tokens)
      text += part
      lines.write(part)
    },
    end() {
      lines.end()
      return text
    },
  }
}
