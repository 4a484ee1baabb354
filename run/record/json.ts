/** What JSON.parse does not tell of a JSON text. */

/**
 * A key that an object of a JSON text has twice, or undefined. JSON.parse takes the last value of such a key and drops
 * the others. The text must be one that JSON.parse takes.
 */
export function duplicateKey(text: string): string | undefined {
  // For each object or array that is open, the keys so far; of an array, none.
  const open: Set<string>[] = []
  for (const [token, key] of text.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (token === '{' || token === '[') open.push(new Set())
    else if (token === '}' || token === ']') open.pop()
    else if (key !== undefined) {
      const name: string = JSON.parse(key) // "a" and "\u0061" are the same
      if (open.at(-1)?.has(name)) return name
      open.at(-1)?.add(name)
    }
  }
  return undefined
}
