/** JSON files that carry a checksum of their own content: a flipped bit is found when they are read. */
import { createHash } from 'node:crypto'
import { isRecord, showJson } from './json.ts'

/** The format of what is written here. A file of a later one is not read. */
const format = 2

/** As JSON, with a checksum of it in the first line. */
export function showSealed(content: object): string {
  const text = showJson({ format, ...content }, 2)
  return text.replace('{', `{\n  "checksum": "${checksum(text)}",`)
}

/** What a JSON file says. */
export type Unsealed = {
  readonly content: Readonly<Record<string, unknown>>
  /** false: it has no checksum, as the config.json of early versions. */
  readonly isSealed: boolean
}

/** What the text of a file says; or in words, such as "is damaged", why that cannot be told. */
export function unseal(file: string): Unsealed | string {
  const text = file.replace(/\n$/, '')
  const line = /^\{\n {2}"checksum": "(\w+)",/.exec(text)
  const content = parse(line ? text.replace(line[0], '{') : text)
  if (!isRecord(content)) return 'is damaged'
  if (line && checksum(text.replace(line[0], '{')) !== line[1]) return 'is damaged'
  // Where there is a format there is a checksum too.
  if (!line && ('format' in content || 'checksum' in content)) return 'is damaged'
  if (content.format !== undefined && Number(content.format) > format) {
    return `is of a later version of this program, in format ${String(content.format)}: this one reads up to ${format}`
  }
  return { content, isSealed: line !== null }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const checksum = (text: string) => createHash('sha256').update(text).digest('hex')
