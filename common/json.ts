/** JSON with NaN and the infinities, and checks of parsed values. JSON has no such numbers: they are written as strings. */

/** A value as JSON, with NaN and the infinities as "NaN", "Infinity" and "-Infinity". */
export const showJson = (value: unknown, indent?: number): string =>
  JSON.stringify(
    value,
    (_, part: unknown) => (typeof part === 'number' && !Number.isFinite(part) ? String(part) : part),
    indent,
  )

/** The number in a parsed value, undefined if there is none. null means NaN, since JSON.stringify writes NaN that way. */
export function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value
  if (value === null || value === 'NaN') return NaN
  return value === 'Infinity' || value === '-Infinity' ? Number(value) : undefined
}

/** The parsed value of a JSON text; undefined if it is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Whether a parsed value is an object. */
export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * A key that occurs twice in an object of a JSON text, or undefined. JSON.parse keeps only the last value of such a key.
 * The text must be valid JSON.
 */
export function duplicateKey(text: string): string | undefined {
  // The keys seen so far in each open object; an open array has an empty set.
  const open: Set<string>[] = []
  for (const [token, key] of text.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (token === '{' || token === '[') open.push(new Set())
    else if (token === '}' || token === ']') open.pop()
    else if (key !== undefined) {
      const name: string = JSON.parse(key) // "a" and "\u0061" are the same key
      if (open.at(-1)?.has(name)) return name
      open.at(-1)?.add(name)
    }
  }
  return undefined
}
