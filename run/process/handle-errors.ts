/** How the process reports an error and ends. */
// These are not imported from the engine's index, so that commands that compute nothing start faster.
import { GpuError, GpuLostError } from '../../engine/gpu/runtime/device.ts'
import { MemoryError } from '../../engine/runtime/memory-error.ts'
import { UserError, codeOf, reasonOf } from '../../common/errors.ts'
import { endBecauseOf } from './interrupt.ts'

/** Whether an error of the engine is caused by the machine (its GPU, its memory), not by a bug. */
export const isMachineError = (error: unknown): error is Error =>
  error instanceof GpuError || error instanceof MemoryError

let gpuLossAdvice = () => 'start again.'

/** Sets the advice that follows the colon in the message for a lost GPU, which ends the process. */
export function adviseOnGpuLoss(advice: () => string): void {
  gpuLossAdvice = advice
}

let isHandling = false
let hasWarned = false

/**
 * Makes errors end the process the way users expect. A UserError and an error of the machine print only their message;
 * any other error is a bug, so it prints its stack too. All exit with code 1. A closed pipe (npm start | head) is not an
 * error: the run ends as it does after Ctrl-C. If output cannot be written for another reason, such as a full disk, the
 * run continues without it.
 */
export function handleErrors(): void {
  if (isHandling) return
  isHandling = true
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', error => {
      if (codeOf(error) === 'EPIPE') endBecauseOf('SIGPIPE')
      else if (stream === process.stdout && !hasWarned) {
        hasWarned = true
        console.error(`Output cannot be written (${reasonOf(error)}). The program continues without it.`)
      }
    })
  }
  // Rejected promises, including a rejected top-level await, arrive here too.
  process.on('uncaughtException', error => {
    console.error(shown(error))
    process.exit(1)
  })
}

function shown(error: unknown): unknown {
  if (error instanceof GpuLostError) return `The GPU was lost (${error.reason}): ${gpuLossAdvice()}`
  if (isMachineError(error)) return sentence(error)
  return error instanceof UserError ? error.message : error
}

/** The message of an engine error as a sentence. */
export const sentence = ({ message }: Error): string =>
  `${message.charAt(0).toUpperCase()}${message.slice(1)}.`
