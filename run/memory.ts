import { freemem } from 'node:os'
import { MemoryError } from '../engine/index.ts'
import { UserError } from './errors.ts'

/** What 32-bit addresses reach, less some room for the programs themselves: more the CPU backend cannot use. */
const addressable = 2 ** 32 - 2 ** 26
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

export type PieceRequest = {
  /** Sequences in the batch that is to be split. */
  sequences: number
  /** Tokens in each of them. */
  length: number
  /** Bytes that may be taken in all. */
  limit: number
  /** Bytes of variables: parameters, gradients, optimizer state. */
  variableBytes: number
  /** Bytes of temporaries for so many sequences of this length, as the compiled program plans them. */
  temporaryBytes: (sequences: number, length: number) => Promise<number>
}

/**
 * In how many pieces a batch has to go through the network, so that each one fits the memory: as few as do.
 * No piece is run to find out. Throws UserError, which says what would fit, when not even one sequence does.
 */
export async function choosePieces(request: PieceRequest): Promise<number> {
  const { sequences, length, limit, variableBytes } = request
  const bytesOf = async (count: number, tokens = length) =>
    variableBytes + (await planned(request, count, tokens))
  /** Sequences in the largest of so many pieces. */
  const inLargest = (pieces: number) => Math.ceil(sequences / pieces)

  const one = await bytesOf(1)
  if (one > limit) throw await tooLarge(request, one, bytesOf)
  let [fits, takes, tooMany, bytesEach] = [1, one, sequences + 1, Infinity]
  /** The next count to plan, if any: each sequence takes about as much, so a line guesses it. */
  const next = (): number | undefined => {
    const guess = Math.min(sequences, Math.floor(fits + (limit - takes) / bytesEach))
    let count = inLargest(Math.ceil(sequences / guess))
    if (count >= tooMany) count = inLargest(Math.ceil(sequences / tooMany) + 1)
    if (count <= fits) count = inLargest(Math.ceil(sequences / fits) - 1)
    return count > fits && count < tooMany ? count : undefined
  }
  for (let count = next(); count !== undefined; count = next()) {
    const bytes = await bytesOf(count)
    if (bytes < Infinity) bytesEach = (bytes - takes) / (count - fits)
    if (bytes <= limit) [fits, takes] = [count, bytes]
    else tooMany = count
  }
  return Math.ceil(sequences / fits)
}

async function planned({ temporaryBytes }: PieceRequest, sequences: number, length: number): Promise<number> {
  try {
    return await temporaryBytes(sequences, length)
  } catch (error) {
    if (error instanceof MemoryError) return Infinity
    throw error
  }
}

async function tooLarge(
  { length, limit, variableBytes }: PieceRequest,
  bytes: number,
  bytesOf: (sequences: number, length: number) => Promise<number>,
): Promise<UserError> {
  const shorter = variableBytes < limit ? await longestThatFits(length >> 1, limit, bytesOf) : undefined
  const remedies = [
    ...(shorter ? [`a sequence length of ${shorter}`] : []),
    ...(bytes <= addressable ? [`--memory ${showBytes(bytes).replace(' ', '')}`] : []),
    'a smaller network',
  ]
  const takes = bytes < Infinity ? `${showBytes(bytes)}` : `more than ${showBytes(addressable)}`
  return new UserError(
    `${showBytes(limit)} of memory is not enough: with one sequence of ${length} tokens a step takes ${takes}, ` +
      `${showBytes(variableBytes)} of it for parameters, gradients and optimizer state. What would fit: ` +
      `${remedies.join(', or ')}.`,
  )
}

async function longestThatFits(
  length: number,
  limit: number,
  bytesOf: (sequences: number, length: number) => Promise<number>,
): Promise<number | undefined> {
  if (length < 8) return undefined
  return (await bytesOf(1, length)) <= limit ? length : longestThatFits(length >> 1, limit, bytesOf)
}

/** Rows of a batch in pieces of equal size, or one more: [start, end) of each. */
export function pieceRanges(rows: number, pieces: number): { start: number; end: number }[] {
  return Array.from({ length: pieces }, (_, i) => ({
    start: Math.floor((i * rows) / pieces),
    end: Math.floor(((i + 1) * rows) / pieces),
  }))
}

/**
 * The fewest pieces, or nearly, in which a batch of so many rows fits the memory. bytesOf: what so many pieces take.
 * Throws UserError when not even pieces of one row fit.
 */
export async function fewestPieces({
  rows,
  limit,
  bytesOf,
}: {
  rows: number
  limit: number
  bytesOf: (pieces: number) => Promise<number>
}): Promise<number> {
  // Some bytes stay as they are, the others are divided by the pieces: two counts tell how many.
  let before = { pieces: Infinity, bytes: 0 }
  for (let pieces = 1; ;) {
    const bytes = await bytesOf(pieces)
    if (bytes <= limit) return pieces
    if (pieces === rows) throw rowTooLarge(limit, bytes)
    const divided = (bytes - before.bytes) / (1 / pieces - 1 / before.pieces)
    const stay = bytes - divided / pieces
    const next = bytes < Infinity && stay < limit ? Math.ceil(divided / (limit - stay)) : 2 * pieces
    if (bytes < Infinity) before = { pieces, bytes }
    pieces = Math.min(rows, Math.max(next, pieces + 1))
  }
}

function rowTooLarge(limit: number, bytes: number): UserError {
  const more = bytes <= addressable ? [`--memory ${showBytes(bytes).replace(' ', '')}`] : []
  const takes = bytes <= addressable ? showBytes(bytes) : `more than ${showBytes(addressable)}`
  const remedies = [...more, 'fewer or shorter sequences', 'a smaller network'].join(', or ')
  return new UserError(
    `${showBytes(limit)} of memory is not enough: with one sequence at a time a step takes ${takes}. What would fit: ${remedies}.`,
  )
}
