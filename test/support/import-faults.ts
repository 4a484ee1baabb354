/** Finds what is wrong with the imports between the files of a project: circles, and imports of what is above. */
import { readFile, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path/posix'

/**
 * For a folder ('.' is the root), its entries from the lowest to the highest. Each may import those before it. Entries in
 * a list of their own are side by side and do not import each other. A folder without an order may import within itself
 * as it likes.
 */
export type Order = Readonly<Record<string, readonly (string | readonly string[])[]>>

const ignored = ['node_modules', 'runs']

/** Statements as Prettier lays them out, and import() of a type or a module. */
const patterns = [
  /^(?:import|export)\s(?:[^'"`;=()]*?\bfrom\s+)?(['"])(?<path>\.[^'"]*)\1/gm,
  /\bimport\(\s*(['"])(?<path>\.[^'"]*)\1/g,
]

/** One sentence for each fault of the imports in a folder, type imports included; none if all is well. */
export async function importFaults(root: string, order: Order): Promise<string[]> {
  const imports = await importsIn(root)
  const faults = new Set(circlesOf(imports).map(circle => `${circle.join(' imports ')}: that is a circle.`))
  for (const file of imports.keys()) {
    const unlisted = unlistedIn(file, order)
    if (unlisted) faults.add(`${unlisted} has no place in the order of imports: add it.`)
  }
  for (const [file, targets] of imports) {
    for (const target of targets) {
      const { folder, from, to } = whereTheyPart(file, target)
      const entries = order[folder]
      if (!entries || from === to) continue
      const [here, there] = [from, to].map(name => entries.findIndex(entry => [entry].flat().includes(name)))
      if (here < 0 || there < 0 || there < here) continue
      const which = there > here ? 'is above' : 'is beside'
      faults.add(`${file} imports ${target}, but ${join(folder, to)} ${which} ${join(folder, from)}.`)
    }
  }
  return [...faults]
}

/** The files that each file imports. Paths are relative to the root, and only files that exist are among them. */
async function importsIn(root: string): Promise<Map<string, readonly string[]>> {
  const files = await sourcesIn(root, '')
  const imports = new Map<string, readonly string[]>()
  for (const file of files) {
    const text = await readFile(join(root, file), 'utf8')
    const paths = patterns.flatMap(pattern =>
      [...text.matchAll(pattern)].map(({ groups }) => groups?.path ?? ''),
    )
    const targets = new Set(paths.map(path => join(dirname(file), path)))
    imports.set(
      file,
      [...targets].filter(target => files.includes(target)),
    )
  }
  return imports
}

async function sourcesIn(root: string, folder: string): Promise<string[]> {
  const entries = await readdir(join(root, folder), { withFileTypes: true })
  const nested = entries.map(async entry => {
    const path = join(folder, entry.name)
    if (entry.isDirectory())
      return ignored.includes(entry.name) || entry.name.startsWith('.') ? [] : sourcesIn(root, path)
    return /\.[jt]s$/.test(entry.name) ? [path] : []
  })
  return (await Promise.all(nested)).flat().sort()
}

/** One circle of each group of files that all import each other, directly or through others. */
function circlesOf(imports: ReadonlyMap<string, readonly string[]>): string[][] {
  const circles: string[][] = []
  const seen = new Set<string>()
  for (const file of imports.keys()) {
    if (seen.has(file)) continue
    const circle = shortestPathBack(file, imports)
    if (!circle) continue
    circles.push(circle)
    for (const other of reachedFrom(file, imports)) if (reachedFrom(other, imports).has(file)) seen.add(other)
  }
  return circles
}

function reachedFrom(file: string, imports: ReadonlyMap<string, readonly string[]>): Set<string> {
  const reached = new Set<string>()
  const pending = [file]
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    for (const target of imports.get(next) ?? []) {
      if (reached.has(target)) continue
      reached.add(target)
      pending.push(target)
    }
  }
  return reached
}

/** From a file along imports to the same file, by the fewest; undefined if no way leads back. */
function shortestPathBack(
  file: string,
  imports: ReadonlyMap<string, readonly string[]>,
): string[] | undefined {
  const paths = [[file]]
  const seen = new Set<string>()
  for (const path of paths) {
    for (const target of imports.get(path[path.length - 1]) ?? []) {
      if (target === file) return [...path, file]
      if (seen.has(target)) continue
      seen.add(target)
      paths.push([...path, target])
    }
  }
  return undefined
}

/** The first folder or file on the way to a file that the order of its parent leaves out. */
function unlistedIn(file: string, order: Order): string | undefined {
  const names = file.split('/')
  const at = names.findIndex((name, depth) => {
    const entries = order[names.slice(0, depth).join('/') || '.']
    return entries && !entries.flat().includes(name)
  })
  return at < 0 ? undefined : names.slice(0, at + 1).join('/')
}

/** The innermost folder that two files share, and the entry of it that leads to each. */
function whereTheyPart(file: string, target: string): { folder: string; from: string; to: string } {
  const [first, second] = [file.split('/'), target.split('/')]
  const depth = first.findIndex((name, i) => name !== second[i])
  return { folder: first.slice(0, depth).join('/') || '.', from: first[depth], to: second[depth] }
}
