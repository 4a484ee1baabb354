/** Names and what they stand for, one a line, the second column aligned: what a run says of itself at start. */
export function headerText(entries: Readonly<Record<string, string>>): string {
  const indent = Math.max(...Object.keys(entries).map(name => name.length)) + 2
  return Object.entries(entries)
    .map(([name, value]) => name.padEnd(indent) + value)
    .join('\n')
}
