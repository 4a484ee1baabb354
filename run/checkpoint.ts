import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Parameters, parametersOf } from '../engine/index.ts'
import { UserError, codeOf, isOfMachine, reasonOf } from './errors.ts'
import { openSafetensors, writeSafetensors } from './safetensors.ts'
import { namedWeights, readInto } from './weights.ts'
import { writeWhole } from './whole-file.ts'

/** How far a run is, in numbers: from these its batches, its random numbers and its schedules follow. */
export type Position = Record<string, number> & { step: number }

/** What a run consists of between two steps. */
export type State = {
  readonly network: Parameters
  /** Momenta, sums and whatever else the optimizers remember. */
  readonly optimizer: Parameters
  readonly at: Position
}

export type Checkpoints = {
  /** The step of the last one that was written or loaded. */
  readonly last: number | undefined
  /** Writes one; the one before it is kept, older ones go. The one of a step is written once. */
  save(state: State, notes: Readonly<Record<string, unknown>>): Promise<void>
  /** Gives a state the values of the last checkpoint that is whole. False when there is none at all. */
  load(state: State): Promise<boolean>
}

/**
 * The checkpoints in a folder. Each is a step-N.safetensors of all tensors, the network's by their names in
 * PyTorch, and a step-N.json of the rest, with a checksum of both. The JSON comes last: it makes the checkpoint.
 * `warn` is told of damaged ones.
 */
export function checkpointsIn(folder: string, warn: (message: string) => void): Checkpoints {
  let last: number | undefined
  const pathOf = (step: number, extension: string) => join(folder, `step-${step}.${extension}`)

  return {
    get last() {
      return last
    },

    async save(state, notes) {
      const { step } = state.at
      if (step === last) return
      try {
        await mkdir(folder, { recursive: true })
        const tensors = { file: `step-${step}.safetensors`, sha256: '' }
        const hash = createHash('sha256')
        await writeWhole(pathOf(step, 'safetensors'), async file => {
          await writeSafetensors(async bytes => {
            hash.update(bytes)
            await file.writeFile(bytes)
          }, variablesOf(state))
        })
        tensors.sha256 = hash.digest('hex')
        await writeWhole(pathOf(step, 'json'), showSealed({ at: state.at, tensors, ...notes }))
      } catch (error) {
        if (isOfMachine(error)) throw error
        const before = last === undefined ? 'there is none before it' : `the one of step ${last} is whole`
        throw new UserError(
          `The checkpoint of step ${step} cannot be written to ${folder} (${reasonOf(error)}); ${before}.`,
        )
      }
      for (const name of await readdir(folder)) {
        const of = stepOf(name)
        if (of !== undefined && of !== step && of !== last) await rm(join(folder, name), { force: true })
      }
      last = step
    },

    async load(state) {
      const steps = (await filesIn(folder)).flatMap(name =>
        name.endsWith('.json') ? (stepOf(name) ?? []) : [],
      )
      const damages: string[] = []
      for (const step of steps.toSorted((a, b) => b - a)) {
        const [json, tensors] = [pathOf(step, 'json'), pathOf(step, 'safetensors')]
        const content = unseal(await readFile(json, 'utf8').catch(() => ''))
        if (!content) damages.push(`${json} is damaged`)
        else if ((await sha256Of(tensors)) !== content.sha256) damages.push(`${tensors} is damaged`)
        else {
          if (damages.length > 0) warn(`${damages.join(', ')}: going on from step ${step}.`)
          await restore(state, content.at, tensors)
          last = step
          return true
        }
      }
      if (damages.length > 0) {
        throw new UserError(
          `${damages.join(', ')}, and there is no other checkpoint: the run has to start anew.`,
        )
      }
      return false
    },
  }
}

/** Every variable of a run by its name in the file, but what an optimizer has and no compiled function uses. */
function variablesOf({ network, optimizer }: State) {
  return [...namedWeights(network), ...parametersOf(optimizer, 'optimizer').filter(([, { home }]) => home)]
}

async function restore(state: State, at: Readonly<Record<string, number>>, path: string): Promise<void> {
  const file = await openSafetensors(path)
  try {
    // What the run did not use is not in the file, and starts as it did there.
    const optimizer = parametersOf(state.optimizer, 'optimizer').filter(([name]) => file.shapes.has(name))
    await readInto(path, file, [...namedWeights(state.network), ...optimizer])
  } finally {
    await file.close()
  }
  Object.assign(state.at, at)
}

/** As JSON, with a checksum of it in the first line. */
function showSealed(content: object): string {
  const text = JSON.stringify(content, undefined, 2)
  return text.replace('{', `{\n  "checksum": "${checksum(text)}",`)
}

/** What the text of a sealed file says, unless it was altered since. */
function unseal(sealed: string): { at: Record<string, number>; sha256: string } | undefined {
  const line = /^\{\n {2}"checksum": "(\w+)",/.exec(sealed)
  const text = line && sealed.replace(line[0], '{')
  if (!text || checksum(text) !== line[1]) return undefined
  const { at, tensors }: { at: Record<string, number>; tensors: { sha256: string } } = JSON.parse(text)
  return { at, sha256: tensors.sha256 }
}

const checksum = (text: string) => createHash('sha256').update(text).digest('hex')

async function sha256Of(path: string): Promise<string | undefined> {
  const hash = createHash('sha256')
  try {
    for await (const bytes of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(bytes)
    return hash.digest('hex')
  } catch {
    return undefined
  }
}

/** The step that a file's name begins with, one half written too. */
function stepOf(name: string): number | undefined {
  const step = /^step-(\d+)\./.exec(name)?.[1]
  return step === undefined ? undefined : Number(step)
}

async function filesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []
    throw new UserError(`${folder} cannot be read (${reasonOf(error)}).`)
  }
}
