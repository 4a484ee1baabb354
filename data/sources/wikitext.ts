/** WikiText-103, from the cache or one of two servers. */
import { access, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../../common/errors.ts'
import { createProgress, type Screen } from '../../common/progress.ts'
import { refuseChanged } from '../cache/content.ts'
import { download, DownloadError, isIntact, type Patience, type PublishedFile } from './download.ts'
import { inTurn } from '../cache/in-turn.ts'
import { findFile, type LocalFile } from './local-file.ts'
import { openParquet } from './parquet/parquet.ts'
import { gpt2 } from '../tokens/gpt2.ts'
import type { Dataset } from './source.ts'
import type { Split, Text, TextSource } from './text.ts'
import { shortened } from '../../common/whole-file.ts'
import { openZip } from './zip.ts'

/** WikiText as two servers publish it: as a folder of Parquet files, and as an archive with the same text. */
export type Edition = {
  name: string
  folder: string
  parquet: {
    url: string
    train: PublishedFile[]
    validation: PublishedFile[]
    rows: { train: number; validation: number }
  }
  zip: { url: string; file: PublishedFile }
}

const revision = 'b08601e04326c79dfdd32d625aee71d232d685c3'

/** The sizes and hashes are those listed by Hugging Face and by users of the archive. */
export const wikitext103: Edition = {
  name: 'WikiText-103',
  folder: 'wikitext-103',
  parquet: {
    url: `https://huggingface.co/datasets/Salesforce/wikitext/resolve/${revision}/wikitext-103-raw-v1/`,
    train: [
      {
        name: 'train-00000-of-00002.parquet',
        bytes: 156_987_808,
        sha256: '74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212',
      },
      {
        name: 'train-00001-of-00002.parquet',
        bytes: 157_088_770,
        sha256: 'ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720',
      },
    ],
    validation: [
      {
        name: 'validation-00000-of-00001.parquet',
        bytes: 657_209,
        sha256: '204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c',
      },
    ],
    rows: { train: 1_801_350, validation: 3_760 },
  },
  zip: {
    url: 'https://wikitext.smerity.com/',
    file: {
      name: 'wikitext-103-raw-v1.zip',
      bytes: 191_984_949,
      sha256: '91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794',
    },
  },
}

export type WikitextOptions = {
  cacheFolder: string
  /** Another source: the URL of a folder with the Parquet files or the archive, or of the archive itself. */
  mirror?: string | undefined
  report?: ((message: string) => void) | undefined
  screen?: Screen | undefined
  edition?: Edition | undefined
  patience?: Patience | undefined
}

/** Both splits, and the files that they are read from. */
type Found = { train: Text; validation: Text; files: { file: LocalFile; sha256: string }[] }

/** A server, the files that it has, and how to read the text from them. */
type Server = { url: string; files: PublishedFile[]; open: () => Promise<{ train: Text; validation: Text }> }

export const wikitext: Dataset = {
  name: 'wikitext-103',
  tokenizer: gpt2,
  hasMirrors: true,
  open: openWikitext,
}

/**
 * WikiText-103 as it is in the raw files: from the cache, from Hugging Face, or from the archive, in this order. Nothing
 * is fetched until a text is read, so tokens that are in the cache already need neither.
 */
function openWikitext(options: WikitextOptions): TextSource {
  const { cacheFolder, mirror, edition = wikitext103 } = options
  const { name, folder, parquet } = edition
  const servers = serversOf(edition, join(cacheFolder, folder), mirror)
  let found: Promise<Found> | undefined
  const textOf = (split: Split, size: number): Text => ({
    size,
    async *pieces() {
      found ??= findText(servers, options)
      const text = await found
      yield* text[split].pieces()
      for (const { file, sha256 } of text.files) await refuseChanged(file, sha256)
    },
  })
  const bytesPerRow = 300
  return {
    name,
    place: folder,
    version: parquet.train
      .concat(parquet.validation)
      .map(({ sha256 }) => sha256)
      .join(),
    train: textOf('train', parquet.rows.train * bytesPerRow),
    validation: textOf('validation', parquet.rows.validation * bytesPerRow),
  }
}

async function findText(
  servers: readonly Server[],
  { cacheFolder, report = () => {}, edition = wikitext103, ...options }: WikitextOptions,
): Promise<Found> {
  const folder = join(cacheFolder, edition.folder)
  const findCached = async () => {
    for (const server of servers) if (await allThere(folder, server.files)) return server
    return undefined
  }
  const failures: string[] = []
  const fetchAny = async () => {
    for (const server of servers) {
      const host = hostOf(server.url)
      const begun = () =>
        report(`Fetching ${edition.name} from ${host}: ${megabytes(sizeOf(server.files))} MB, once.`)
      try {
        report(`Asking ${host} for ${edition.name}.`)
        await fetchAll(server.url, server.files, folder, begun, options)
        // Partial downloads from other servers are no longer needed.
        for (const { name } of servers.flatMap(({ files }) => files))
          await rm(join(folder, `${name}.part`), { force: true })
        return server
      } catch (error) {
        if (!(error instanceof DownloadError)) throw error
        failures.push(`from ${host} (${error.message})`)
      }
    }
    return undefined
  }
  const waiting = () => report(`Another process fetches ${edition.name}: waiting for it.`)
  const server =
    (await findCached()) ??
    (await inTurn(join(folder, 'fetch'), async () => (await findCached()) ?? (await fetchAny()), { waiting }))
  if (server) {
    const files = server.files.map(async ({ name, sha256 }) => ({
      file: await findFile(join(folder, name)),
      sha256,
    }))
    return { files: await Promise.all(files), ...(await server.open()) }
  }
  const lists = servers.map(({ files }) => files.map(file => file.name).join(', '))
  throw new UserError(
    `${edition.name} could not be fetched ${failures.join(' or ')}: connect to a network and start again, which ` +
      `goes on where it stopped, name another source with --mirror URL, or put ${lists.join(', or ')} in the ` +
      `folder ${shortened(folder)}.`,
  )
}

function serversOf(edition: Edition, folder: string, mirror: string | undefined): Server[] {
  const { parquet, zip } = edition
  const archive: Server = {
    url: new URL(zip.file.name, zip.url).href,
    files: [zip.file],
    open: async () => await openZip(join(folder, zip.file.name)),
  }
  const table: Server = {
    url: parquet.url,
    files: [...parquet.train, ...parquet.validation],
    open: async () => ({
      train: await openTable(parquet.train, folder, parquet.rows.train),
      validation: await openTable(parquet.validation, folder, parquet.rows.validation),
    }),
  }
  if (mirror === undefined) return [table, archive]
  const url = mirrorUrl(mirror)
  if (url.endsWith('.zip')) return [{ ...archive, url }]
  return [
    { ...table, url },
    { ...archive, url: new URL(zip.file.name, url).href },
  ]
}

/** In the raw files an empty line is a space and a line feed. The Parquet rows have lost both. */
const emptyLine = new TextEncoder().encode(' \n')

async function openTable(files: PublishedFile[], folder: string, rows: number): Promise<Text> {
  const rowBytes = (row: Uint8Array): Uint8Array => (row.length === 0 ? emptyLine : row)
  const parts = await Promise.all(files.map(({ name }) => openParquet(join(folder, name), { rowBytes })))
  const found = parts.reduce((sum, part) => sum + part.rows, 0)
  if (found !== rows)
    throw new UserError(`${shortened(folder)} has ${found} rows of text where ${rows} are expected.`)
  return {
    size: parts.reduce((sum, part) => sum + part.size, 0),
    async *pieces() {
      for (const part of parts) yield* part.pieces()
    },
  }
}

/** Whether all files are in the cache. Throws a UserError for one that is damaged. */
async function allThere(folder: string, files: PublishedFile[]): Promise<boolean> {
  for (const file of files) if (!(await isThere(join(folder, file.name)))) return false
  for (const file of files) await checkFile(join(folder, file.name), file)
  return true
}

async function checkFile(path: string, file: PublishedFile): Promise<void> {
  if (await isIntact(path, file)) return
  throw new UserError(`${shortened(path)} is damaged: delete it, and start again to fetch it anew.`)
}

async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

async function fetchAll(
  url: string,
  files: PublishedFile[],
  folder: string,
  begun: () => void,
  options: Pick<WikitextOptions, 'screen' | 'patience'>,
): Promise<void> {
  const progress = createProgress(options.screen)
  const all = sizeOf(files)
  let before = 0
  let hasBegun = false
  try {
    for (const file of files) {
      const path = join(folder, file.name)
      if (await isThere(path)) {
        await checkFile(path, file)
      } else {
        const from = url.endsWith('/') ? new URL(file.name, url).href : url
        const show = (received: number) => {
          if (!hasBegun) begun()
          hasBegun = true
          progress.update(
            (before + received) / all,
            `${megabytes(before + received)} of ${megabytes(all)} MB`,
          )
        }
        await download(from, file, path, show, options.patience)
      }
      before += file.bytes
    }
  } finally {
    progress.clear()
  }
}

function mirrorUrl(mirror: string): string {
  const url = URL.parse(mirror)
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new UserError(`--mirror takes a URL that begins with http:// or https://, not "${mirror}".`)
  }
  if (url.username || url.password) {
    throw new UserError(
      `--mirror takes a URL without a user name and a password: ${url.host} has to do without.`,
    )
  }
  return url.pathname.endsWith('.zip') || url.href.endsWith('/') ? url.href : `${url.href}/`
}

function hostOf(url: string): string {
  return new URL(url).host
}

function sizeOf(files: PublishedFile[]): number {
  return files.reduce((sum, file) => sum + file.bytes, 0)
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)
}
