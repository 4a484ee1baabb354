/** The checkpoints of a run: what it consists of between two steps, on the disk. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Parameters, type Variable, parametersOf } from '../../engine/index.ts'
import { UserError, isOfMachine, reasonOf } from '../../common/errors.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { type Notes, checkpointFiles, readNotes, stepsIn } from './notes.ts'
import { namesInOwn, openOwn } from '../folders/own-file.ts'
import { openSafetensors, writeSafetensors } from './safetensors.ts'
import { showSealed } from '../../common/sealed-json.ts'
import { namedWeights, readInto, refuseLeftovers } from './weights.ts'
import { writeWhole } from '../record/whole-file.ts'

/** How far a run is, in numbers: from these its batches, its random numbers and its schedules follow. */
export type Position = Record<string, number> & { step: number }

/** What a run consists of between two steps. */
export type State = {
  readonly network: Parameters
  /** Momenta, sums and whatever else the optimizers remember. */
  readonly optimizer: Parameters
  readonly at: Position
}

/** Variables of a run have NaN in them: it does not go on from there. */
export class DivergedError extends Error {
  override name = 'DivergedError'
}

export type Checkpoints = {
  /** The step of the last one that was written or loaded, if it is still there. */
  readonly last: number | undefined
  /**
   * Writes one; the one before it is kept, older ones go. The one of a step is written once. Throws DivergedError, and
   * changes nothing, if a variable has NaN in it.
   */
  save(state: State, notes: Readonly<Record<string, unknown>>): Promise<void>
  /**
   * Gives a state the values of the last checkpoint that is whole, and returns its notes. Undefined when there is none
   * at all. Throws UserError when the last one cannot be read, or is of another network.
   */
  load(state: State): Promise<Notes | undefined>
}

/**
 * The checkpoints in a folder. Each is a step-N.safetensors of all tensors, the network's by their names in
 * PyTorch, and a step-N.json of the rest, with a checksum of both. The JSON comes last: it makes the checkpoint.
 * `warn` is told of damaged ones.
 */
export function checkpointsIn(folder: string, warn: (message: string) => void): Checkpoints {
  let last: number | undefined
  const lastThere = () => {
    if (last === undefined) return undefined
    return Object.values(checkpointFiles(folder, last)).every(path => existsSync(path)) ? last : undefined
  }

  return {
    get last() {
      return lastThere()
    },

    async save(state, notes) {
      const { step } = state.at
      if (step === last) return
      const files = checkpointFiles(folder, step)
      try {
        await makeFolders(folder)
        const tensors = { file: `step-${step}.safetensors`, sha256: '' }
        const hash = createHash('sha256')
        await writeWhole(files.tensors, async file => {
          await writeSafetensors(async bytes => {
            hash.update(bytes)
            await file.writeFile(bytes)
          }, variablesOf(state).map(withoutNaN))
        })
        tensors.sha256 = hash.digest('hex')
        await writeWhole(files.json, showSealed({ at: state.at, tensors, ...notes }))
      } catch (error) {
        if (isOfMachine(error) || error instanceof DivergedError) throw error
        const before = lastThere()
        const other = before === undefined ? 'there is none before it' : `the one of step ${before} is whole`
        throw new UserError(
          `The checkpoint of step ${step} cannot be written to ${folder} (${reasonOf(error)}); ${other}.`,
        )
      }
      for (const name of await namesInOwn(folder)) {
        const of = stepOf(name)
        // One that cannot be removed does no harm.
        if (of !== undefined && of !== step && of !== last) await rm(join(folder, name)).catch(() => {})
      }
      last = step
    },

    async load(state) {
      const faults: string[] = []
      for (const step of await stepsIn(folder)) {
        const { json, tensors } = checkpointFiles(folder, step)
        const notes = await readNotes(folder, step)
        const fault = typeof notes === 'string' ? `${json} ${notes}` : await faultOf(tensors, notes.sha256)
        if (fault !== undefined || typeof notes === 'string') {
          faults.push(fault ?? '')
          continue
        }
        if (faults.length > 0) warn(`${faults.join(', ')}: going on from step ${step}.`)
        await restore(state, notes, tensors)
        last = step
        return notes
      }
      if (faults.length > 0) {
        throw new UserError(
          `${faults.join(', ')}, and there is no other checkpoint: the run has to start anew.`,
        )
      }
      return undefined
    },
  }
}

/** Every variable of a run by its name in the file, but what an optimizer has and no compiled function uses. */
function variablesOf({ network, optimizer }: State) {
  return [...namedWeights(network), ...parametersOf(optimizer, 'optimizer').filter(([, { home }]) => home)]
}

async function restore(state: State, { at }: Notes, path: string): Promise<void> {
  const file = await openSafetensors(path)
  try {
    const [network, optimizer] = [namedWeights(state.network), parametersOf(state.optimizer, 'optimizer')]
    // A sample takes the network alone.
    const isLeft = (name: string) => optimizer.length === 0 && name.startsWith('optimizer.')
    refuseLeftovers(path, file, [...network, ...optimizer], isLeft)
    // What the run did not use is not in the file, and starts as it did there.
    await readInto(path, file, [...network, ...optimizer.filter(([name]) => file.shapes.has(name))])
  } finally {
    await file.close()
  }
  // A schedule that has something new to remember starts with it anew.
  for (const name of Object.keys(state.at)) state.at[name] = at[name] ?? state.at[name]
}

/** A variable that throws DivergedError when it is read and has NaN in it. */
function withoutNaN([name, variable]: [string, Variable]) {
  const { shape, dtype } = variable
  const read = async () => {
    const value = await variable.read()
    if (value.data.includes(NaN)) throw new DivergedError(`${name} has NaN in it`)
    return value
  }
  return [name, { shape, dtype, read }] as const
}

/** What is wrong with a file that should have this checksum, in words. Throws UserError if it cannot be read. */
async function faultOf(path: string, sha256: string): Promise<string | undefined> {
  const file = await openOwn(path)
  if (!file) return `${path} is missing`
  const hash = createHash('sha256')
  try {
    for await (const bytes of file.createReadStream({ highWaterMark: 2 ** 20 })) hash.update(bytes)
  } catch (error) {
    throw new UserError(`${path} cannot be read (${reasonOf(error)}).`)
  }
  return hash.digest('hex') === sha256 ? undefined : `${path} is damaged`
}

/** The step of a file's name, of one half written too. */
function stepOf(name: string): number | undefined {
  const step = /^step-(\d+)\.(json|safetensors)(\.[\w-]+\.part)?$/.exec(name)?.[1]
  return step === undefined ? undefined : Number(step)
}
