/** Wraps text that arrives in pieces, such as the tokens of a sample, into lines. */
import { withoutControls } from '../../common/printable.ts'

/** Text that arrives in pieces, written in lines of at most `width` columns. */
export type Wrapper = {
  write(piece: string): void
  /** Writes the word that was held back, and ends the line. */
  end(): void
}

/**
 * Wraps text at spaces as it arrives: a word is held back until its end is known, and a word wider than a line is split.
 * Line ends in the text are kept, be they LF, CRLF or CR. An untrained network may produce any character, so terminal
 * control characters are replaced by U+FFFD.
 */
export function wrapText(write: (text: string) => void, width = 80): Wrapper {
  let column = 0
  let spaces = ''
  let word: string[] = []
  let isAfterReturn = false

  /** The word held back, with the spaces or the line break before it. */
  function takeWord(): string {
    if (word.length === 0) return ''
    const breaks = column > 0 && column + spaces.length + word.length > width
    let line = breaks ? '\n' : spaces
    if (breaks) column = 0
    else column += spaces.length
    for (const letter of word) {
      if (column >= width) {
        line += '\n'
        column = 0
      }
      line += letter
      column++
    }
    spaces = ''
    word = []
    return line
  }

  return {
    write(piece) {
      let text = ''
      for (const letter of piece.replaceAll('\t', ' ')) {
        if (letter === ' ') {
          text += takeWord()
          spaces += ' '
        } else if (letter === '\n' && isAfterReturn) {
          // The CR before it has already ended the line.
        } else if (letter === '\n' || letter === '\r') {
          text += `${takeWord()}\n`
          column = 0
          spaces = ''
        } else {
          word.push(withoutControls(letter))
        }
        isAfterReturn = letter === '\r'
      }
      if (text !== '') write(text)
    },
    end() {
      write(`${takeWord()}\n`)
    },
  }
}
