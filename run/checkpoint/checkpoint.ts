/** Writes and reads the checkpoints of a run: its whole state between two steps. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Parameters, type Variable, parametersOf } from '../../engine/index.ts'
import { UserError, reasonOf } from '../../common/errors.ts'
import { isMachineError } from '../process/handle-errors.ts'
import { makeFolders } from '../../common/make-folders.ts'
import { type Notes, checkpointFiles, readNotes, stepsIn } from './notes.ts'
import { namesInOwn, openOwn } from '../folders/own-file.ts'
import { openSafetensors, writeSafetensors } from './safetensors.ts'
import { showSealed } from '../../common/sealed-json.ts'
import { namedWeights, readInto, refuseLeftovers } from './weights.ts'
import { writeWhole } from '../../common/whole-file.ts'

/** The counters of a run. Its batches, random numbers and schedules follow from them. */
export type Position = Record<string, number> & { step: number }

/** The state of a run between two steps. */
export type State = {
  readonly network: Parameters
  /** The optimizers' state, such as momenta. */
  readonly optimizer: Parameters
  readonly at: Position
}

/** A variable of the run contains NaN, so the run cannot continue from this state. */
export class DivergedError extends Error {
  override name = 'DivergedError'
}

export type Checkpoints = {
  /** The step of the last checkpoint that was written or loaded, if it still exists. */
  readonly last: number | undefined
  /**
   * Writes a checkpoint, unless this step has one. The previous one is kept, and older ones are removed. Throws a
   * DivergedError, and changes nothing, if a variable contains NaN.
   */
  save(state: State, notes: Readonly<Record<string, unknown>>): Promise<void>
  /**
   * Reads the last intact checkpoint into a state, and returns its notes; undefined if there is no checkpoint. Throws a
   * UserError if it cannot be read, or belongs to another network.
   */
  load(state: State): Promise<Notes | undefined>
}

/**
 * The checkpoints in a folder. Each has a step-N.safetensors with all tensors, where the network's have their names in
 * PyTorch, and a step-N.json with everything else and the checksums of both. The JSON is written last, and completes the
 * checkpoint. Calls `warn` for a damaged checkpoint.
 */
export function checkpointsIn(folder: string, warn: (message: string) => void): Checkpoints {
  let last: number | undefined
  const existingLast = () => {
    if (last === undefined) return undefined
    return Object.values(checkpointFiles(folder, last)).every(path => existsSync(path)) ? last : undefined
  }

  return {
    get last() {
      return existingLast()
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
        if (isMachineError(error) || error instanceof DivergedError) throw error
        const before = existingLast()
        const other = before === undefined ? 'there is no earlier one' : `the one of step ${before} is whole`
        throw new UserError(
          `The checkpoint of step ${step} cannot be written to ${folder} (${reasonOf(error)}); ${other}.`,
        )
      }
      for (const name of await namesInOwn(folder)) {
        const its = stepOf(name)
        // A file that cannot be removed does no harm.
        if (its !== undefined && its !== step && its !== last) await rm(join(folder, name)).catch(() => {})
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

/** The variables of a run by their names in the file, except optimizer state that no compiled function uses. */
function variablesOf({ network, optimizer }: State) {
  return [
    ...namedWeights(network),
    ...parametersOf(optimizer, 'optimizer').filter(([, { isStored }]) => isStored),
  ]
}

async function restore(state: State, { at }: Notes, path: string): Promise<void> {
  const file = await openSafetensors(path)
  try {
    const [network, optimizer] = [namedWeights(state.network), parametersOf(state.optimizer, 'optimizer')]
    // A sample needs only the network.
    const isLeft = (name: string) => optimizer.length === 0 && name.startsWith('optimizer.')
    refuseLeftovers(path, file, [...network, ...optimizer], isLeft)
    // Variables that the run did not use are not in the file, and keep their initial values.
    await readInto(path, file, [...network, ...optimizer.filter(([name]) => file.shapes.has(name))])
  } finally {
    await file.close()
  }
  // A counter that the checkpoint does not have, such as one of a new schedule, keeps its initial value.
  for (const name of Object.keys(state.at)) state.at[name] = at[name] ?? state.at[name]
}

/** A variable whose read() throws a DivergedError if it contains NaN. */
function withoutNaN([name, variable]: [string, Variable]) {
  const { shape, dtype } = variable
  const read = async () => {
    const value = await variable.read()
    if (value.data.includes(NaN)) throw new DivergedError(`${name} has NaN in it`)
    return value
  }
  return [name, { shape, dtype, read }] as const
}

/** What is wrong with a file, in words; undefined if it has this checksum. Throws a UserError if it cannot be read. */
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

/** The step in the name of a checkpoint's file or temporary file. */
function stepOf(name: string): number | undefined {
  const step = /^step-(\d+)\.(json|safetensors)(\.[\w.-]+\.part)?$/.exec(name)?.[1]
  return step === undefined ? undefined : Number(step)
}
