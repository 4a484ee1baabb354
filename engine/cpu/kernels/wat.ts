/** Small pieces of WebAssembly text that the kernels share. */

/** The texts of item(0) to item(count - 1), joined by line breaks. */
export function repeat(count: number, item: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => item(index)).join('\n')
}

/** Declares locals of one type; `names` are separated by spaces. */
export function locals(type: 'i32' | 'f32' | 'v128', names: string): string {
  return names.replace(/\S+/g, name => `(local $${name} ${type})`)
}

/**
 * A loop around the text that follows it, loop('i', 0, 'n', 1)`...`. The i32 local `index` goes from `from` by `step`
 * while it is below `to` (unsigned). Each is an i32 expression, a local's name or a number.
 */
export function loop(index: string, from: string | number, to: string | number, step: string | number) {
  return (strings: TemplateStringsArray, ...values: (string | number)[]): string => `
    (local.set $${index} ${i32(from)})
    (block $${index}.done (loop $${index}.next
      (br_if $${index}.done (i32.ge_u (local.get $${index}) ${i32(to)}))
      ${String.raw({ raw: strings }, ...values)}
      (local.set $${index} (i32.add (local.get $${index}) ${i32(step)}))
      (br $${index}.next)))`
}

/** An i32 expression: a number becomes a constant, a bare name reads a local, and anything else is kept. */
export function i32(value: string | number): string {
  if (typeof value === 'number') return `(i32.const ${value})`
  return value.startsWith('(') ? value : `(local.get $${value})`
}

/** The sum of i32 expressions. */
export function add(first: string | number, ...rest: (string | number)[]): string {
  return rest.reduce<string>((sum, term) => `(i32.add ${sum} ${i32(term)})`, i32(first))
}

/** The difference of two i32 expressions. */
export function sub(a: string | number, b: string | number): string {
  return `(i32.sub ${i32(a)} ${i32(b)})`
}

/** The product of two i32 expressions. */
export function mul(a: string | number, b: string | number): string {
  return `(i32.mul ${i32(a)} ${i32(b)})`
}

/** The quotient of two i32 expressions, as unsigned numbers. */
export function divide(a: string | number, b: string | number): string {
  return `(i32.div_u ${i32(a)} ${i32(b)})`
}

/** The remainder of two i32 expressions, as unsigned numbers. */
export function remainder(a: string | number, b: string | number): string {
  return `(i32.rem_u ${i32(a)} ${i32(b)})`
}

/** The bitwise and of two i32 expressions. */
export function and(a: string | number, b: string | number): string {
  return `(i32.and ${i32(a)} ${i32(b)})`
}

/** A call. Arguments are i32 expressions, or expressions of other types in parentheses. */
export function call(name: string, ...values: (string | number)[]): string {
  return `(call $${name} ${values.map(i32).join(' ')})`
}

/** Adds to an i32 local. */
export function advance(name: string, by: string | number): string {
  return `(local.set $${name} ${add(name, by)})`
}

/** The smaller of two i32 expressions, as unsigned numbers (each is evaluated twice). */
export function min(a: string | number, b: string | number): string {
  return `(select ${i32(a)} ${i32(b)} (i32.lt_u ${i32(a)} ${i32(b)}))`
}

/** The v128 expression a * b + c: f32x4.relaxed_madd if it exists (`fma`), otherwise two operations. */
export function multiplyAdd(fma: boolean, a: string, b: string, c: string): string {
  return fma ? `(f32x4.relaxed_madd ${a} ${b} ${c})` : `(f32x4.add (f32x4.mul ${a} ${b}) ${c})`
}

/** Picks four of the eight 32-bit lanes of two v128 locals. */
export function shuffle(lanes: readonly number[], a: string, b: string): string {
  const bytes = lanes.flatMap(lane => [0, 1, 2, 3].map(byte => 4 * lane + byte))
  return `(i8x16.shuffle ${bytes.join(' ')} (local.get $${a}) (local.get $${b}))`
}

/**
 * `(func $name (param $from i32) (param $rows i32) (param $stride i32) (param $bytes i32))` fetches `rows` pieces of
 * `bytes`, `stride` bytes apart, into the caches, for a loop that reads or writes them next.
 * WebAssembly has no prefetch, so this loads a byte of every cache line and drops it. Since nothing depends on these
 * loads, the processor fetches many lines at once. In the loop itself it would wait for a few at a time, and its own
 * prefetcher cannot predict short pieces of rows.
 */
export function prefetchFunction(name: string): string {
  return `
  (func $${name} (param $from i32) (param $rows i32) (param $stride i32) (param $bytes i32)
    ${locals('i32', 'row at end')}
    ${loop('row', 0, 'rows', 1)`
      (local.set $end ${add('from', 'bytes')})
      ${loop('at', 'from', 'end', cacheLine)`(drop (i32.load8_u (local.get $at)))`}
      (drop (i32.load8_u ${sub('end', 1)}))
      ${advance('from', 'stride')}`})`
}

/** Bytes of a cache line. Where lines are longer, some are fetched twice. */
const cacheLine = 64

/** The nearest float32 to a value, which may be infinite, in all four lanes. */
export function f32x4(value: number): string {
  const text = spellFloat(Math.fround(value))
  return `(v128.const f32x4 ${text} ${text} ${text} ${text})`
}

/** An integer in all four lanes. */
export const i32x4 = (value: number): string => `(v128.const i32x4 ${value} ${value} ${value} ${value})`

/** A float64 in both lanes. */
export function f64x2(value: number): string {
  const text = spellFloat(value)
  return `(v128.const f64x2 ${text} ${text})`
}

/** A number in WAT notation. */
function spellFloat(value: number): string {
  if (Object.is(value, -0)) return '-0'
  if (Number.isFinite(value)) return String(value)
  return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
}

/**
 * A function whose vector constants are assigned to locals before its `body`. V8 would materialize them again in each
 * iteration of a loop, at several operations each, which makes an exp four times slower.
 * `header` is the function's parameters, result and locals.
 */
export function func(name: string, header: string, body: string): string {
  const constants = new Map<string, string>()
  const hoisted = body.replace(/\(v128\.const [^)]*\)/g, constant => {
    const local = constants.get(constant) ?? `constant${constants.size}`
    constants.set(constant, local)
    return `(local.get $${local})`
  })
  return `
  (func $${name} ${header} ${locals('v128', [...constants.values()].join(' '))}
    ${[...constants].map(([constant, local]) => `(local.set $${local} ${constant})`).join('\n')}
    ${hoisted})`
}
