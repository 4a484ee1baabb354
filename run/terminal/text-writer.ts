import { columnsOf } from '../../common/progress.ts'
import { wrapText } from './wrap.ts'

/** A text that is printed as its tokens come. */
export type TextWriter = {
  write(tokens: Iterable<number>): void
  /** Ends the last line, and returns the whole text. */
  end(): string
}

/** Prints in lines what `decode` makes of some tokens; a character may take several of them. */
export function textWriter(decode: (tokens: Iterable<number>) => string): TextWriter {
  const width = Math.min(80, columnsOf(process.stdout) ?? 80)
  const lines = wrapText(piece => process.stdout.write(piece), width)
  let text = ''
  return {
    write(tokens) {
      const piece = decode(tokens)
      text += piece
      lines.write(piece)
    },
    end() {
      lines.end()
      return text
    },
  }
}
