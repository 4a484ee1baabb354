/** Small pieces of WebAssembly text that the kernels share. */

/** The texts of item(0) to item(count - 1), one after the other. */
export function repeat(count: number, item: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => item(index)).join('\n')
}

/** Declares locals of one type. */
export function locals(type: 'i32' | 'f32' | 'v128', ...names: string[]): string {
  return names.map(name => `(local $${name} ${type})`).join(' ')
}

/**
 * A loop that runs `body` with $index = from, from + step, ... while it is below `to` (unsigned).
 * `from`, `to` and `step` are i32 expressions; numbers are written as constants.
 */
export function loop(
  index: string,
  from: string | number,
  to: string | number,
  step: string | number,
  body: string,
): string {
  return `
    (local.set $${index} ${i32(from)})
    (block $${index}.done (loop $${index}.next
      (br_if $${index}.done (i32.ge_u (local.get $${index}) ${i32(to)}))
      ${body}
      (local.set $${index} (i32.add (local.get $${index}) ${i32(step)}))
      (br $${index}.next)))`
}

/** An i32 expression: a number becomes a constant, a bare name a local, and anything else stays as it is. */
export function i32(value: string | number): string {
  if (typeof value === 'number') return `(i32.const ${value})`
  return value.startsWith('(') ? value : `(local.get $${value})`
}

/** The sum of i32 expressions. */
export function add(first: string | number, ...rest: (string | number)[]): string {
  return rest.reduce<string>((sum, term) => `(i32.add ${sum} ${i32(term)})`, i32(first))
}

/** The product of two i32 expressions. */
export function mul(a: string | number, b: string | number): string {
  return `(i32.mul ${i32(a)} ${i32(b)})`
}

/** The bits that two i32 expressions have in common. */
export function and(a: string | number, b: string | number): string {
  return `(i32.and ${i32(a)} ${i32(b)})`
}

/** Advances an i32 local. */
export function advance(name: string, by: string | number): string {
  return `(local.set $${name} ${add(name, by)})`
}

/** The smaller of two i32 expressions, as unsigned numbers (each is evaluated twice). */
export function min(a: string | number, b: string | number): string {
  return `(select ${i32(a)} ${i32(b)} (i32.lt_u ${i32(a)} ${i32(b)}))`
}
