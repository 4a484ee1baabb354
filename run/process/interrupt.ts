/** How a run ends before its time: by Ctrl-C, by another signal, or because nobody reads its output any more. */
import { exitCodeOf, outlivesTerminal } from './parent.js'

/** Whether the run under way is to end. */
export type Interrupt = {
  /** True from the first signal on: finish the step, write the checkpoint, close the table. */
  readonly requested: boolean
  /** From here on there is work to save: the first signal is only noted. Before, it ends the process at once. */
  begin(): void
  /** Resolves once a second signal ends the process even while its main thread is busy; at once if there was no first. */
  settled(): Promise<void>
}

/** SIGPIPE stands for a reader that went away. Node ignores the signal itself: a write fails with EPIPE instead. */
type Reason = 'SIGINT' | 'SIGTERM' | 'SIGHUP' | 'SIGPIPE'

// npm and our launchers pass on a Ctrl-C that the terminal has already sent here: several signals, one key.
const sameKeyMilliseconds = 250

let request: ((reason: Reason) => void) | undefined

/** Ends the run under way as this signal does, or else the process; that of a command that has no run is no failure. */
export function endBecauseOf(reason: Reason): void {
  if (!request) process.exit(reason === 'SIGPIPE' ? 0 : exitCodeOf(reason))
  request(reason)
}

/**
 * Listens for SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal, unless nohup is to protect from it). Once
 * there is work to save, the first one is only noted, and the run ends by itself, with the exit code that a shell gives
 * to that signal; a second one ends the process at once. `onFirst` may say that the first one was heard.
 */
export function watchInterrupt(onFirst: () => void = () => {}): Interrupt {
  // One that is ignored is listened to as well, since it would end the process otherwise.
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
   * Stops listening, so that the system itself ends the process at the next signal, whatever it is doing. Not before
   * the event loop has seen all signals of the same key: they wait while the main thread is busy.
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
