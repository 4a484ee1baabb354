/** JSON files that carry a checksum of their own content, so that reading one detects a flipped bit. */
import { createHash } from 'node:crypto'
import { isRecord, parseJson, showJson } from './json.ts'

/** The version of the files written here. A file with a later version is not read. */
const format = 2

/** An object as JSON, with its checksum in the first line. */
export function showSealed(content: object): string {
  const text = showJson({ format, ...content }, 2)
  return text.replace('{', `{\n  "checksum": "${checksum(text)}",`)
}

export type Unsealed = {
  readonly content: Readonly<Record<string, unknown>>
  /** False if the file has no checksum, as the config.json of early versions. */
  readonly isSealed: boolean
}

/** The content of a file; or words that say why it cannot be used, such as "is damaged". */
export function unseal(file: string): Unsealed | string {
  const text = file.replace(/\n$/, '')
  const line = /^\{\n {2}"checksum": "(\w+)",/.exec(text)
  const content = parseJson(line ? text.replace(line[0], '{') : text)
  if (!isRecord(content)) return 'is damaged'
  if (line && checksum(text.replace(line[0], '{')) !== line[1]) return 'is damaged'
  // Every file with a format has a checksum too.
  if (!line && ('format' in content || 'checksum' in content)) return 'is damaged'
  if (content.format !== undefined && Number(content.format) > format) {
    return `was written by a later version of this program, in format ${String(content.format)}; this version reads up to ${format}`
  }
  return { content, isSealed: line !== null }
}

const checksum = (text: string) => createHash('sha256').update(text).digest('hex')
