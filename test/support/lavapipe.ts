/**
 * Mesa's lavapipe, a Vulkan driver that computes on the CPU, for the tests of the GPU where there is none. It comes
 * from Debian's packages, with the C library that they are built for, and is unpacked in a folder without root and
 * without installing anything: Node runs through that folder's own loader.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import type { Driver } from './adapter.ts'

/** Debian's releases, the first that will do: subgroup matrices came with Mesa 26. */
const releases = ['forky', 'sid']
const packages = ['mesa-vulkan-drivers', 'libvulkan1', 'libatomic1']
const debian = 'http://deb.debian.org/debian'
const keyrings = ['gpg', 'pgp'].map(ending => `/usr/share/keyrings/debian-archive-keyring.${ending}`)

/**
 * The driver in this folder, which is fetched and unpacked first where there is none; it appears there when it is
 * whole and `works` says so. report is told how far it is, from 0 to 1. Throws UserError where it cannot be had.
 */
export async function lavapipe(
  folder: string,
  works: (driver: Driver) => Promise<boolean>,
  report: (done: number, status: string) => void,
): Promise<Driver> {
  if (await exists(folder)) return driverIn(folder)
  if (process.platform !== 'linux')
    throw new UserError(
      'No GPU was found here, and a driver that computes on the CPU is fetched on Linux only.',
    )
  for (const tool of ['apt-get', 'dpkg-deb'])
    if (!(await run(tool, ['--version']).catch(() => false)))
      throw new UserError(
        `No GPU was found here, and to fetch a driver that computes on the CPU takes ${tool} (of Debian or Ubuntu): ` +
          "else install Mesa 26 or newer with its Vulkan driver 'lavapipe', and the Vulkan loader.",
      )
  await removeLeftovers(folder)
  const beside = `${folder}.${process.pid}`
  const remove = () => rm(beside, { recursive: true, force: true })
  const reasons: string[] = []
  try {
    for (const mirror of await mirrors())
      for (const release of releases) {
        await remove()
        try {
          await unpack(beside, mirror, release, report)
          if (await works(driverIn(beside))) return await settle(beside, folder)
          reasons.push(`that of ${release} does not work here`)
        } catch (error) {
          reasons.push(`${release} of ${mirror}: ${reasonOf(error)}`)
        }
      }
  } finally {
    await remove()
  }
  throw new UserError(
    `No GPU was found here, and a driver that computes on the CPU could not be had from Debian (${reasons[0]}).`,
  )
}

/** Another process may have been first: what it left is as good. */
async function settle(beside: string, folder: string): Promise<Driver> {
  await rename(beside, folder).catch(error => {
    if (!['ENOTEMPTY', 'EEXIST'].includes(codeOf(error) ?? '')) throw error
  })
  return driverIn(folder)
}

const driverIn = (folder: string): Driver => ({
  node: join(folder, 'node'),
  environment: {
    HLB_NODE: process.execPath,
    VK_DRIVER_FILES: join(folder, 'driver.json'),
    // It takes most of its time to compile kernels, once.
    MESA_SHADER_CACHE_DIR: join(dirname(folder), 'lavapipe-kernels'),
  },
})

/** Fetches the packages and what they depend on, and unpacks what Node needs of them in a new folder. */
async function unpack(
  folder: string,
  mirror: string,
  release: string,
  report: (done: number, status: string) => void,
): Promise<void> {
  report(0, `fetching a driver from ${mirror} (${release})`)
  const apt = join(folder, 'apt')
  const archives = join(apt, 'archives')
  for (const name of ['lists', 'archives']) await mkdir(join(apt, name, 'partial'), { recursive: true })
  // Nothing is installed, as far as this apt knows: it fetches everything down to the C library.
  await writeFile(join(apt, 'status'), '')
  const trusted = await keyring(apt)
  const architecture = (await run('dpkg', ['--print-architecture'])).trim()
  await writeFile(
    join(apt, 'sources.list'),
    `deb [arch=${architecture} signed-by=${trusted}] ${mirror} ${release} main\n`,
  )
  const options = {
    'Dir::State': apt,
    'Dir::State::lists': join(apt, 'lists'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': apt,
    'Dir::Cache::archives': archives,
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
    'APT::Sandbox::User': 'root',
    'APT::Install-Recommends': 'false',
    'APT::Update::Error-Mode': 'any',
    'APT::Status-Fd': '1',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '2',
    'Acquire::http::Timeout': '20',
    'Debug::NoLocking': 'true',
  }
  const set = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  const fetching = (from: number, share: number) => (line: string) => {
    const percent = /^dlstatus:[^:]*:([\d.]+):/.exec(line)?.[1]
    if (percent !== undefined)
      report(from + (share * Number(percent)) / 100, 'fetching a driver that computes on the CPU (80 MB)')
  }
  await run('apt-get', [...set, '--quiet', 'update'], fetching(0, 0.1))
  await run(
    'apt-get',
    [...set, '--quiet', '--yes', '--download-only', 'install', ...packages],
    fetching(0.1, 0.5),
  )
  const files = (await readdir(archives)).filter(name => name.endsWith('.deb'))
  const root = join(folder, 'root')
  for (const [i, name] of files.entries()) {
    report(0.6 + (0.4 * i) / files.length, `unpacking ${name.split('_')[0]}`)
    await run('dpkg-deb', ['--extract', join(archives, name), root])
  }
  await keepLibraries(join(root, 'usr/lib'), folder)
  for (const used of [apt, root]) await rm(used, { recursive: true })
}

/** Moves the libraries to where they stay, and writes what leads to them. */
async function keepLibraries(from: string, folder: string): Promise<void> {
  const triple = (await readdir(from)).find(name => name.endsWith('-linux-gnu'))
  if (triple === undefined) throw new Error('the packages have no libraries')
  const libraries = join(folder, 'lib')
  await rename(join(from, triple), libraries)
  const names = await readdir(libraries)
  // Drivers of GPUs, and tables of character sets.
  for (const name of names)
    if (name === 'gconv' || (name.startsWith('libvulkan_') && name !== 'libvulkan_lvp.so'))
      await rm(join(libraries, name), { recursive: true })
  const loader = names.find(name => /^ld-linux-.*\.so\.\d+$/.test(name))
  if (loader === undefined || !names.includes('libvulkan_lvp.so'))
    throw new Error('the packages have no lavapipe')
  await writeFile(
    join(folder, 'driver.json'),
    JSON.stringify({
      file_format_version: '1.0.1',
      ICD: { library_path: 'lib/libvulkan_lvp.so', api_version: '1.4.0' },
    }),
  )
  // Node takes the loader for itself; what it starts with process.execPath is to go through here again.
  await writeFile(join(folder, 'path.js'), 'process.execPath = process.env.HLB_NODE_THROUGH\n')
  await writeFile(
    join(folder, 'node'),
    `#!/bin/sh
folder=$(cd "$(dirname "$0")" && pwd)
export HLB_NODE_THROUGH="$folder/node"
exec "$folder/lib/${loader}" --library-path "$folder/lib" "$HLB_NODE" --import "$folder/path.js" "$@"
`,
    { mode: 0o755 },
  )
}

/** Mirrors of Debian: the one that this machine uses, if it does, then the one that is near everywhere. */
async function mirrors(): Promise<string[]> {
  const folder = '/etc/apt/sources.list.d'
  const others = await readdir(folder).catch(() => [])
  const files = ['/etc/apt/sources.list', ...others.map(name => join(folder, name))]
  const texts = await Promise.all(files.map(file => readFile(file, 'utf8').catch(() => '')))
  const lines = texts.join('\n').split('\n')
  const urls = lines
    .filter(line => /^(deb|URIs:)\s/.test(line))
    .flatMap(line => line.match(/https?:\S+\/debian(?=\/?(\s|$))/g) ?? [])
  return [...new Set([...urls, debian])]
}

/** Debian's keys: this machine's own, or those in the package that has them. */
async function keyring(apt: string): Promise<string> {
  for (const path of keyrings) if (await exists(path)) return path
  await run('apt-get', ['download', '--quiet', 'debian-archive-keyring'], undefined, apt)
  const name = (await readdir(apt)).find(name => name.endsWith('.deb'))
  if (name === undefined) throw new Error("there is no package with Debian's keys")
  await run('dpkg-deb', ['--extract', join(apt, name), join(apt, 'keys')])
  for (const path of keyrings) if (await exists(join(apt, 'keys', path))) return join(apt, 'keys', path)
  throw new Error("the package with Debian's keys has none")
}

/** Runs a program to its end and gives what it printed. Throws its last error line when it fails. */
async function run(
  program: string,
  args: readonly string[],
  onLine?: (line: string) => void,
  folder?: string,
): Promise<string> {
  const child = spawn(program, args, {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
  })
  const output: string[] = []
  const errors: string[] = []
  createInterface({ input: child.stdout }).on('line', line => {
    output.push(line)
    onLine?.(line)
  })
  createInterface({ input: child.stderr }).on('line', line => errors.push(line))
  const [code]: (number | null)[] = await once(child, 'close')
  if (code === 0) return output.join('\n')
  const reason = errors.find(line => line.startsWith('E:')) ?? errors.at(-1)
  throw new Error(reason?.replace(/^E: /, '') ?? `${program} ended with code ${code}`)
}

/** Removes what preparations left that were killed an hour ago or longer. */
async function removeLeftovers(folder: string): Promise<void> {
  const parent = dirname(folder)
  await mkdir(parent, { recursive: true })
  for (const name of await readdir(parent)) {
    if (!name.startsWith(`${basename(folder)}.`)) continue
    const leftover = join(parent, name)
    const found = await stat(leftover).catch(() => undefined)
    if (found && Date.now() - found.mtimeMs > 3_600_000) await rm(leftover, { recursive: true, force: true })
  }
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )
