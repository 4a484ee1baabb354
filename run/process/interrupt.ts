/** Ends a run early: after Ctrl-C or another signal, or when its output is no longer read. */
import { exitCodeOf, outlivesTerminal } from './parent.js'

export type Interrupt = {
  /** True after the first signal: the run should finish its step, write its checkpoint and close the table. */
  readonly requested: boolean
  /** After this call there is work to save, so the first signal only sets `requested`. Before, it ends the process. */
  begin(): void
  /** Resolves once a second signal would end the process at once; immediately if there was no first. */
  settled(): Promise<void>
}

/** SIGPIPE means that the reader of the output has gone. Node ignores the signal itself: a write fails with EPIPE. */
type Reason = 'SIGINT' | 'SIGTERM' | 'SIGHUP' | 'SIGPIPE'

// npm and our launchers forward a Ctrl-C that the terminal sends here too, so one key press causes several signals.
const sameKeyMilliseconds = 250

let request: ((reason: Reason) => void) | undefined

/** Ends the current run as this signal does; without a run, ends the process, with code 0 for SIGPIPE. */
export function endBecauseOf(reason: Reason): void {
  if (!request) process.exit(reason === 'SIGPIPE' ? 0 : exitCodeOf(reason))
  request(reason)
}

/**
 * Listens for SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal, unless started with nohup). Once there is work to
 * save, the first signal only sets `requested` and calls `onFirst`; the run ends by itself, with the exit code that a
 * shell gives to that signal. A second signal ends the process at once.
 */
export function watchInterrupt(onFirst: () => void = () => {}): Interrupt {
  // An ignored signal needs a listener too, or it would end the process.
  if (outlivesTerminal) process.on('SIGHUP', () => {})
  const signals = outlivesTerminal
    ? (['SIGINT', 'SIGTERM'] as const)
    : (['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  let hasBegun = false
  let settling: Promise<void> | undefined

  function onSignal(reason: Reason): void {
    if (settling) return
    process.exitCode = exitCodeOf(reason)
    if (!hasBegun) process.exit()
    settling = settle()
    onFirst()
  }

  /**
   * Stops listening, so that the next signal ends the process even if it is busy. First it waits until the event loop has
   * handled all signals of the same key press, which are pending while the main thread is busy.
   */
  async function settle(): Promise<void> {
    await new Promise(resolve => setTimeout(resolve, sameKeyMilliseconds))
    await new Promise(resolve => setImmediate(resolve))
    for (const signal of signals) process.off(signal, onSignal)
  }

  for (const signal of signals) process.on(signal, onSignal)
  request = onSignal
  return {
    get requested() {
      return settling !== undefined
    },
    begin() {
      hasBegun = true
    },
    settled: async () => settling,
  }
}
