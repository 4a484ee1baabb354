/** Formats the header of a run. */

/** Lines of a name and a value, with the values aligned. */
export function headerText(entries: Readonly<Record<string, string>>): string {
  const indent = Math.max(...Object.keys(entries).map(name => name.length)) + 2
  return Object.entries(entries)
    .map(([name, value]) => name.padEnd(indent) + value)
    .join('\n')
}
