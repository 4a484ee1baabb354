/** Text in columns, no wider than a terminal. */

/** Text that fits some columns, cut where it does not. */
export const fit = (text: string, width: number): string =>
  text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`

/** A row of a table: numbers, and text beside them. */
export interface Row {
  readonly numbers: readonly string[]
  /** A line each; the numbers are beside the first. */
  readonly texts: readonly string[]
}

/** Numbers aligned to the right, with their headings, and beside each row its text, cut to what is left of the width. */
export function table(
  headings: readonly string[],
  title: string,
  rows: readonly Row[],
  width: number,
): string {
  const all = [{ numbers: headings, texts: [title] }, ...rows]
  const widths = headings.map((_, column) => Math.max(...all.map(({ numbers }) => numbers[column].length)))
  return all
    .flatMap(({ numbers, texts }) => {
      const cells = numbers.map((cell, column) => cell.padStart(widths[column])).join('  ')
      return texts.map((text, line) => {
        const start = `${line === 0 ? cells : ' '.repeat(cells.length)}  `
        return (start + fit(text, width - start.length)).trimEnd()
      })
    })
    .join('\n')
}

/** Words in lines of so many columns: of `first` the first, where something is to be beside it. */
export function wrapList(words: readonly string[], width: number, first = width): string[] {
  const lines: string[] = []
  let line = ''
  words.forEach((word, i) => {
    const piece = i < words.length - 1 ? `${word},` : word
    const room = lines.length === 0 ? first : width
    if (line !== '' && line.length + 1 + piece.length > room) {
      lines.push(line)
      line = piece
    } else line = line === '' ? piece : `${line} ${piece}`
  })
  lines.push(line)
  return lines.map((each, i) => fit(each, i === 0 ? first : width))
}
