/** Text from elsewhere that a terminal is to show. */

// Control characters steer a terminal, marks of direction change the order in which it shows the others.
const steers = /[\p{Cc}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu

/** A text with what would steer a terminal written out: \u{1b} for an escape. */
export const printable = (text: string): string => text.replace(steers, writtenOut)

/** The same for a text of several lines, whose line feeds stay. */
export const printableLines = (text: string): string => text.split('\n').map(printable).join('\n')

const writtenOut = (character: string): string => `\\u{${character.codePointAt(0)?.toString(16)}}`

/** Tells the user on a terminal of something that is not as it should be. */
export const warn = (message: string): void => console.error(printableLines(message))
