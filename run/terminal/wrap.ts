/** Text that arrives in pieces, written in lines of at most `width` columns. */
export type Wrapper = {
  write(piece: string): void
  /** Writes what was held back, and ends the line. */
  end(): void
}

/**
 * Wraps text at spaces as it comes: a word is held back until it is known to be whole, and one that is wider
 * than a line is cut. The text's own line ends stay, whether they are LF, CRLF or CR.
 */
export function wrapText(write: (text: string) => void, width = 80): Wrapper {
  let column = 0
  let spaces = ''
  let word: string[] = []
  let isAfterReturn = false

  /** The word held back, with what goes before it. */
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
          // The line has ended with the CR before.
        } else if (letter === '\n' || letter === '\r') {
          text += `${takeWord()}\n`
          column = 0
          spaces = ''
        } else {
          word.push(steers(letter) ? '\ufffd' : letter)
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

/**
 * A half-trained network writes any character, those that steer a terminal among them: control characters, and marks
 * that turn the direction of a line.
 */
const steers = (letter: string): boolean => /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u.test(letter)
