/** Makes text from elsewhere (file names, messages, samples) safe to show on a terminal. */

// Control characters can move the cursor or change colors; direction marks reorder the characters around them.
const terminalControls = /[\p{Cc}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu

/** A text with the code of each terminal control character in its place, such as \u{1b} for an escape. */
export const printable = (text: string): string => text.replace(terminalControls, escaped)

/** A text with U+FFFD in place of each terminal control character. */
export const withoutControls = (text: string): string => text.replace(terminalControls, '\ufffd')

/** The same for a text of several lines, which keeps its line feeds. */
export const printableLines = (text: string): string => text.split('\n').map(printable).join('\n')

const escaped = (character: string): string => `\\u{${character.codePointAt(0)?.toString(16)}}`

/** Prints a warning to standard error. */
export const warn = (message: string): void => console.error(printableLines(message))
