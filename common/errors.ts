// Not by the engine's index: what has nothing to compute starts faster without it.
import { GpuError, GpuLostError } from '../engine/gpu/runtime/device.ts'
import { MemoryError } from '../engine/runtime/memory-error.ts'
import { endBecauseOf } from '../run/process/interrupt.ts'
import { printableLines } from './printable.ts'

/** An error of the user's making: its message says what was wrong and what to do, and is all that is shown. */
export class UserError extends Error {
  override name = 'UserError'

  constructor(message: string) {
    super(printableLines(message)) // it may name a file of somebody else's
  }
}

/** Errors of the engine that are about the machine, not about the program. */
export const isOfMachine = (error: unknown): error is Error =>
  error instanceof GpuError || error instanceof MemoryError

let whatToDo = () => 'start again.'

/** Says what to do when the GPU is lost, behind the colon of the message that ends the process. */
export function adviseWhenLost(advice: () => string): void {
  whatToDo = advice
}

let isHandling = false
let hasWarned = false

/**
 * Ends the process as its users expect when something goes wrong: a UserError prints its message alone, and so
 * does what the machine is to blame for; anything else its stack too, since that one is ours to mend; all exit with
 * code 1. A reader that went away (npm start | head) is no error at all: a run ends as by Ctrl-C. Output that cannot be
 * written for another reason, such as a full disk, is lost, and the run goes on.
 */
export function handleErrors(): void {
  if (isHandling) return
  isHandling = true
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', error => {
      if (codeOf(error) === 'EPIPE') endBecauseOf('SIGPIPE')
      else if (stream === process.stdout && !hasWarned) {
        hasWarned = true
        console.error(`The output cannot be written (${reasonOf(error)}): this goes on without.`)
      }
    })
  }
  // A rejected promise, a top-level await's included, arrives here as well.
  process.on('uncaughtException', error => {
    console.error(shown(error))
    process.exit(1)
  })
}

function shown(error: unknown): unknown {
  if (error instanceof GpuLostError) return `The GPU was lost (${error.reason}): ${whatToDo()}`
  if (isOfMachine(error)) return sentence(error)
  return error instanceof UserError ? error.message : error
}

/** The message of the engine's errors as a sentence. */
export const sentence = ({ message }: Error): string =>
  `${message.charAt(0).toUpperCase()}${message.slice(1)}.`

/** What a caught value says, whatever it is: the reason inside another message. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The code of a system error (ENOENT, EACCES), if it is one. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
