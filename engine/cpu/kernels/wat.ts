/** Small pieces of WebAssembly text that the kernels share. */

/** The texts of item(0) to item(count - 1), one after the other. */
export function repeat(count: number, item: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => item(index)).join('\n')
}

/** Declares locals of one type; `names` are separated by spaces. */
export function locals(type: 'i32' | 'f32' | 'v128', names: string): string {
  return names.replace(/\S+/g, name => `(local $${name} ${type})`)
}

/**
 * A loop around the text that follows it, loop('i', 0, 'n', 1)`...`, with the i32 local `index` going from
 * `from` by `step` while it is below `to` (unsigned); each is an i32 expression, a local's name or a number.
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

/** An i32 expression: a number becomes a constant, a bare name a local, and anything else stays as it is. */
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

/** What is left of that division. */
export function remainder(a: string | number, b: string | number): string {
  return `(i32.rem_u ${i32(a)} ${i32(b)})`
}

/** The bits that two i32 expressions have in common. */
export function and(a: string | number, b: string | number): string {
  return `(i32.and ${i32(a)} ${i32(b)})`
}

/** A call with i32 arguments, or other types in parentheses. */
export function call(name: string, ...values: (string | number)[]): string {
  return `(call $${name} ${values.map(i32).join(' ')})`
}

/** Advances an i32 local. */
export function advance(name: string, by: string | number): string {
  return `(local.set $${name} ${add(name, by)})`
}

/** The smaller of two i32 expressions, as unsigned numbers (each is evaluated twice). */
export function min(a: string | number, b: string | number): string {
  return `(select ${i32(a)} ${i32(b)} (i32.lt_u ${i32(a)} ${i32(b)}))`
}

/** The v128 expression a * b + c: one operation where there is f32x4.relaxed_madd (`fma`), else two. */
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
 * WebAssembly has no prefetch, so this loads something of every cache line and drops it. With nothing else to do in
 * between, the processor fetches many lines at once, where the loop would wait for a few at a time, and its own
 * prefetcher has nothing to go by in short pieces of rows.
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

/** Bytes that caches hold and fetch as one; where they are more, some are fetched twice. */
const cacheLine = 64

/** The same float in all four lanes: the nearest float32, which may be infinite. */
export function f32x4(value: number): string {
  const text = spellFloat(Math.fround(value))
  return `(v128.const f32x4 ${text} ${text} ${text} ${text})`
}

/** The same integer in all four lanes. */
export const i32x4 = (value: number): string => `(v128.const i32x4 ${value} ${value} ${value} ${value})`

/** The same double in both lanes. */
export function f64x2(value: number): string {
  const text = spellFloat(value)
  return `(v128.const f64x2 ${text} ${text})`
}

/** A number as WAT spells it. */
function spellFloat(value: number): string {
  if (Object.is(value, -0)) return '-0'
  if (Number.isFinite(value)) return String(value)
  return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
}

/**
 * A function whose vector constants are made once, ahead of its `body`: V8 would make them again each time
 * round a loop, at the price of several operations each (an exp takes four times as long so).
 * `header` is its parameters, result and locals.
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

/** Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits. */
const magic = 12582912

/**
 * Statements that replace the v128 local `x` by e to its power, on four lanes, to about 1e-7 of the result: with
 * infinities, subnormal results and NaN as IEEE 754 has them. `t` is a v128 local to work with.
 * Written twice, for neighbouring vectors, it becomes one 256-bit computation: V8 can pair all of it.
 * Within a loop, it belongs into the body of func.
 */
export function exp(fma: boolean, x: string, t: string): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  // 2^n is the product of two powers of two about as large, which are normal numbers for all n: multiplying by the
  // second overflows and rounds to subnormal numbers as it should. 254 is twice the bias of a float's exponent, so
  // half of n + 254 is the exponent of the first, and the rest that of the second.
  const exponents = `(i32x4.shl ${n} (i32.const 23))`
  const first = `(v128.and (i32x4.shr_u ${exponents} (i32.const 1)) ${i32x4(0x7f800000)})`
  return `
    (local.set $${x} (f32x4.pmax (f32x4.pmin ${r} ${f32x4(89)}) ${f32x4(-104)}))
    ${reducedExp(fma, x, t, magic + 254)}
    (local.set $${x} ${horner(fma, expPolynomial, r)})
    (local.set $${x} (f32x4.mul ${r} ${first}))
    (local.set $${x} (f32x4.mul ${r} (i32x4.sub ${exponents} ${first})))`
}

/**
 * exp where tails do not matter: what would round to less than 2^`least`, of -126 or more, is 0, so that no subnormal
 * numbers come of it, which are slow, and arguments above 88.37 count as that. It takes two operations less.
 */
export function expOrZero(fma: boolean, x: string, t: string, least: number): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  return `
    (local.set $${x} (f32x4.pmin ${r} ${f32x4(88.37)}))
    ${reducedExp(fma, x, t, magic)}
    (local.set $${x} (v128.andnot
      (i32x4.add (i32x4.shl ${n} (i32.const 23)) ${horner(fma, expPolynomial, r)})
      (f32x4.lt ${n} ${f32x4(magic + least)})))`
}

/**
 * Leaves n + `offset` in `t` and r in `x`, where exp(x) = 2^n * exp(r). Reduction and polynomial are from Cephes
 * (S. Moshier), expf.c.
 */
function reducedExp(fma: boolean, x: string, t: string, offset: number): string {
  const [r, n] = [`(local.get $${x})`, `(local.get $${t})`]
  const rounded = `(f32x4.sub ${n} ${f32x4(offset)})`
  return `
    (local.set $${t} ${multiplyAdd(fma, r, f32x4(Math.LOG2E), f32x4(offset))})
    (local.set $${x} ${multiplyAdd(fma, rounded, f32x4(-0.693359375), r)})
    (local.set $${x} ${multiplyAdd(fma, rounded, f32x4(2.1219444e-4), r)})`
}

const expPolynomial = [
  1.9875691e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5, 1, 1,
]

/**
 * Statements that replace the v128 local `x` by its natural logarithm, on four lanes, to about 1e-7, for
 * normal positive numbers (NaN for NaN and infinity). `t` and `u` are v128 locals to work with.
 * Reduction to m * 2^e, m between sqrt(1/2) and sqrt(2), and polynomial from Cephes (S. Moshier), logf.c.
 */
export function log(fma: boolean, x: string, t: string, u: string): string {
  const [value, e, f] = [`(local.get $${x})`, `(local.get $${t})`, `(local.get $${u})`]
  const bits = i32x4(0x3f3504f3) // of sqrt(1/2)
  const polynomial = [
    7.0376836292e-2, -0.1151461031, 0.1167699874, -0.12420140846, 0.14249322787, -0.16668057665,
    0.20000714765, -0.24999993993, 0.33333331174, -0.5,
  ]
  return `
    (local.set $${t} (i32x4.shr_s (i32x4.sub ${value} ${bits})
      (i32.const 23)))
    (local.set $${u} (f32x4.sub (i32x4.sub ${value} (i32x4.shl ${e} (i32.const 23))) ${f32x4(1)}))
    (local.set $${t} (f32x4.convert_i32x4_s ${e}))
    (local.set $${x} (f32x4.sub ${value} ${value}))
    (local.set $${x} (f32x4.add ${value} ${multiplyAdd(
      fma,
      e,
      f32x4(-2.1219444e-4),
      `(f32x4.mul (f32x4.mul ${f} ${f}) ${horner(fma, polynomial, f)})`,
    )}))
    (local.set $${x} ${multiplyAdd(fma, e, f32x4(0.693359375), `(f32x4.add ${f} ${value})`)})`
}

/** The polynomial with these coefficients, highest power first, of a v128 expression (evaluated often). */
function horner(fma: boolean, coefficients: readonly number[], x: string): string {
  return coefficients.map(f32x4).reduce((sum, term) => multiplyAdd(fma, sum, x, term))
}
