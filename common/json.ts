/** Numbers in JSON. It has no words for NaN and the infinities: these are strings in it. */

/** As JSON, in which NaN and the infinities are "NaN", "Infinity" and "-Infinity". */
export const showJson = (value: unknown, indent?: number): string =>
  JSON.stringify(
    value,
    (_, part: unknown) => (typeof part === 'number' && !Number.isFinite(part) ? String(part) : part),
    indent,
  )

/** The number that a value of JSON stands for; undefined if it is none. null is what JSON.stringify makes of NaN. */
export function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value
  if (value === null || value === 'NaN') return NaN
  return value === 'Infinity' || value === '-Infinity' ? Number(value) : undefined
}

/** Whether a value of JSON is an object. */
export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
