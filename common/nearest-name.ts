/** The one of `names` that is most like `name`, if any is like enough to be what was meant. */
export function nearestName(name: string, names: Iterable<string>): string | undefined {
  let best: string | undefined
  let least = Infinity
  for (const candidate of names) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best !== undefined && least <= Math.max(2, best.length * 0.4) ? best : undefined
}

/** How many letters to add, drop or change between two words (Levenshtein), one row of the table at a time. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, j) => j)
  for (let i = 1; i <= from.length; i++) {
    const next = [i]
    for (let j = 1; j <= to.length; j++) {
      const changed = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(changed, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row[to.length]!
}

/** positionBias as position_bias. */
export const snakeCase = (name: string): string =>
  name.replace(/[A-Z]/g, capital => `_${capital.toLowerCase()}`)

/** The members of groups of any depth, by their dotted names: { net: { dim: 4 } } as { 'net.dim': 4 }. */
export function dottedNames(group: unknown, prefix = ''): Record<string, unknown> {
  if (group === undefined) return {}
  if (typeof group !== 'object' || group === null || Array.isArray(group)) return { [prefix]: group }
  const parts = Object.entries(group).map(([name, value]) =>
    dottedNames(value, prefix ? `${prefix}.${name}` : name),
  )
  return Object.fromEntries(parts.flatMap(part => Object.entries(part)))
}
