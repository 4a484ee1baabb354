/** Every dataset and every file format that --data takes. A new one is a file of this folder and a line here. */
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { nearestName } from '../../common/nearest-name.ts'
import { readable } from '../../common/regular-file.ts'
import { textFolder } from './text-folder.ts'
import { parquetFile } from './parquet/parquet.ts'
import type { Dataset, Format } from './source.ts'
import { stateOfTheUnion } from './state-of-the-union.ts'
import { textFile } from './text-file.ts'
import { tokenFolder } from './token-folder.ts'
import { wikitext } from './wikitext.ts'
import { zipFile } from './zip.ts'

/** The text that a run without --data trains on. */
const defaultDataset: Dataset = stateOfTheUnion

/** What --data takes by name. */
const datasets: readonly Dataset[] = [wikitext]

/** What --data takes as a path. The first format that matches is used; the last one takes every file. */
const formats: readonly Format[] = [tokenFolder, textFolder, parquetFile, zipFile, textFile]

/** The names that --data takes. */
export const datasetNames: readonly string[] = datasets.map(({ name }) => name)

/** The dataset that --data names, or the default without --data; undefined if it is a path. */
export function namedDataset(data: string | undefined): Dataset | undefined {
  return data === undefined ? defaultDataset : datasets.find(({ name }) => name === data)
}

/** How to open what --data names. Throws a UserError if it names nothing that exists. */
export async function findSource(data: string | undefined): Promise<Pick<Dataset, 'tokenizer' | 'open'>> {
  const dataset = namedDataset(data)
  if (dataset || data === undefined) return dataset ?? defaultDataset
  const found = await readable(
    data,
    () => stat(data),
    () => adviceFor(data),
  )
  for (const { tokenizer, matches, open } of formats)
    if (await matches(data, found.isDirectory())) return { tokenizer, open: options => open(data, options) }
  throw new UserError(`${data} is in no format that --data takes.`)
}

/** Throws a UserError if --mirror is given for data that is not downloaded from a mirror. */
export function checkMirror(data: string | undefined, mirror: string | undefined): void {
  if (mirror === undefined || namedDataset(data)?.hasMirrors) return
  const names = datasets.filter(({ hasMirrors }) => hasMirrors).map(({ name }) => name)
  const name = names.join(' or ')
  throw new UserError(`--mirror names a source of ${name}: it takes --data ${name} too.`)
}

/** The end of the message for a path that does not exist: the name that may have been meant. */
async function adviceFor(path: string): Promise<string> {
  const folder = dirname(path)
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const names = entries.map(entry => entry.name)
  const nearest = nearestName(basename(path), path === basename(path) ? [...names, ...datasetNames] : names)
  return nearest ? `: did you mean ${join(folder, nearest)}?` : '.'
}
