/** Amounts of memory: parsing --memory, and showing bytes. */
import type { Backend } from '../engine/index.ts'
import { UserError } from '../common/errors.ts'

const units = new Map(
  ['', 'K', 'M', 'G', 'T'].flatMap((prefix, power) => [
    [`${prefix}B`, 1000 ** power],
    [`${prefix}IB`, 1024 ** power],
  ]),
)

/** The bytes that a run may use: the value of --memory, or the backend's default, three quarters of the free memory. */
export function memoryLimit(text: string | undefined, { capacity }: Pick<Backend, 'capacity'>): number {
  if (text === undefined) return capacity.usual
  const bytes = parseBytes(text)
  if (bytes === undefined) {
    throw new UserError(
      `--memory takes an amount such as 4GB, 1.5GiB or 800MB${text === '' ? '' : `, not "${text}"`}.`,
    )
  }
  return Math.min(capacity.most, bytes)
}

function parseBytes(text: string): number | undefined {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text.trim()) ?? []
  const scale = unit === undefined ? undefined : units.get(unit.toUpperCase())
  const bytes = Number(digits) * (scale ?? NaN)
  return bytes > 0 ? bytes : undefined
}

/** Bytes with three digits, such as 1.23 GB. --memory takes the same notation. */
export function showBytes(bytes: number): string {
  const power = Math.min(3, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)))
  // Rounded up, so that this amount is always enough.
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.max(1, bytes / 1000 ** power))))
  const value = Math.ceil((bytes / 1000 ** power) * 10 ** digits) / 10 ** digits
  return `${value} ${['', 'k', 'M', 'G'][power]}B`
}

/** The memory that a step uses, for the header of a run. */
export function memoryText({
  variableBytes,
  temporaryBytes,
  microbatches,
  limit,
}: Readonly<Record<'variableBytes' | 'temporaryBytes' | 'microbatches' | 'limit', number>>): string {
  const split = microbatches === 1 ? '' : `, its batch in ${microbatches} microbatches`
  const allowed = limit < Infinity ? `; ${showBytes(limit)} allowed` : ''
  return `${showBytes(variableBytes)} for variables, ${showBytes(temporaryBytes)} for a step${split}${allowed}`
}
