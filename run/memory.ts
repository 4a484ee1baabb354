import { freemem } from 'node:os'
import { UserError } from './errors.ts'

/** What 32-bit addresses reach, less some room for the programs themselves: more the CPU backend cannot use. */
export const addressable = 2 ** 32 - 2 ** 26
const units = new Map(
  ['', 'K', 'M', 'G', 'T'].flatMap((prefix, power) => [
    [`${prefix}B`, 1000 ** power],
    [`${prefix}IB`, 1024 ** power],
  ]),
)

/**
 * What a run may take unless it is told: three quarters of what is free, as --memory takes it. It is noted with the
 * run, since the number of pieces that a batch is computed in shows in the last bits of its gradient.
 */
export const freeMemory = (free = freemem()): string => `${Math.max(1, Math.floor((0.75 * free) / 1e6))}MB`

/** Bytes that a run may take, by the text of --memory. */
export function memoryLimit(text: string): number {
  const bytes = parseBytes(text)
  if (bytes === undefined) {
    throw new UserError(
      `--memory takes an amount such as 4GB, 1.5GiB or 800MB${text === '' ? '' : `, not "${text}"`}.`,
    )
  }
  return Math.min(addressable, bytes)
}

function parseBytes(text: string): number | undefined {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text.trim()) ?? []
  const scale = unit === undefined ? undefined : units.get(unit.toUpperCase())
  const bytes = Number(digits) * (scale ?? NaN)
  return bytes > 0 ? bytes : undefined
}

/** 1.23 GB: three digits, as --memory takes them. */
export function showBytes(bytes: number): string {
  const power = Math.min(3, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)))
  // Rounded up: what this names is enough.
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.max(1, bytes / 1000 ** power))))
  const value = Math.ceil((bytes / 1000 ** power) * 10 ** digits) / 10 ** digits
  return `${value} ${['', 'k', 'M', 'G'][power]}B`
}

/** What a step takes, for the header of a run. */
export function memoryText(
  {
    variableBytes,
    temporaryBytes,
    pieces,
  }: { variableBytes: number; temporaryBytes: number; pieces: number },
  limit: string,
): string {
  const split = pieces === 1 ? '' : `, its batch in ${pieces} pieces`
  const allowed = showBytes(memoryLimit(limit))
  return `${showBytes(variableBytes)} for variables, ${showBytes(temporaryBytes)} for a step${split}; ${allowed} allowed`
}
