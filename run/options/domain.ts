/** The set of numbers that an option takes, and its description in error messages. */

/** A set of numbers. */
export type Domain = {
  readonly kind: 'integer' | 'number'
  /** The least number, inclusive. */
  readonly minimum?: number | undefined
  /** The greatest number, inclusive. */
  readonly maximum?: number | undefined
  /** The least number, exclusive. */
  readonly above?: number | undefined
  /** All numbers are multiples of this one. */
  readonly multipleOf?: number | undefined
  /** All numbers are powers of this one, including 1. */
  readonly powerOf?: number | undefined
  /** The greatest number that the program can represent. An error mentions it only if a value exceeds it. */
  readonly limit: number
}

/** Whether a number is in a domain. */
export function contains(domain: Domain, number: number): boolean {
  const { kind, minimum = -Infinity, maximum = Infinity, above = -Infinity, limit } = domain
  const isKind = kind === 'number' ? Number.isFinite(number) : Number.isSafeInteger(number)
  const isBetween = number >= minimum && number > above && number <= maximum && Math.abs(number) <= limit
  return isKind && isBetween && isMultiple(number, domain) && isPower(number, domain)
}

function isMultiple(number: number, { multipleOf }: Domain): boolean {
  return multipleOf === undefined || number % multipleOf === 0
}

function isPower(number: number, { powerOf }: Domain): boolean {
  if (powerOf === undefined) return true
  let power = 1
  while (power < number) power *= powerOf
  return power === number
}

/** The domain in words that follow "takes", such as: a whole number from 1 to 1000. `text` is the rejected value. */
export function domainText(domain: Domain, { text, many }: { text?: string; many?: number | 'any' }): string {
  const { kind, minimum, above, multipleOf, powerOf, limit } = domain
  const isBeyond = (text ?? '')
    .split(',')
    .some(part => Number.isFinite(Number(part)) && Math.abs(Number(part)) > limit)
  const maximum = domain.maximum ?? (isBeyond ? limit : undefined)
  const noun = powerOf === undefined ? 'number' : `power of ${powerOf}`
  const whole = kind === 'integer' && powerOf === undefined ? 'whole ' : ''
  const plural = noun.replace(/^\w+/, '$&s')
  const nouns =
    many === undefined ? `a ${whole}${noun}` : `${many === 'any' ? '' : `${many} `}${whole}${plural}`
  const multiples = multipleOf === undefined ? '' : ` that is a multiple of ${multipleOf}`
  return `${nouns}${multiples}${boundsText(minimum, above, maximum)}`
}

function boundsText(
  minimum: number | undefined,
  above: number | undefined,
  maximum: number | undefined,
): string {
  if (above !== undefined)
    return ` above ${above}${maximum === undefined ? '' : ` and of at most ${maximum}`}`
  if (minimum === undefined) return maximum === undefined ? '' : ` of at most ${maximum}`
  return maximum === undefined ? ` of at least ${minimum}` : ` from ${minimum} to ${maximum}`
}
