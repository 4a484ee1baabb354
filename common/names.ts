/** The spellings of names: snake case, and dotted names for nested groups. */

/** positionBias as position_bias. */
export const snakeCase = (name: string): string =>
  name.replace(/[A-Z]/g, capital => `_${capital.toLowerCase()}`)

/** Flattens nested groups, with dotted names: { net: { dim: 4 } } becomes { 'net.dim': 4 }. */
export function dottedNames(group: unknown, prefix = ''): Record<string, unknown> {
  if (group === undefined) return {}
  if (typeof group !== 'object' || group === null || Array.isArray(group)) return { [prefix]: group }
  const parts = Object.entries(group).map(([name, value]) =>
    dottedNames(value, prefix ? `${prefix}.${name}` : name),
  )
  return Object.fromEntries(parts.flatMap(part => Object.entries(part)))
}
