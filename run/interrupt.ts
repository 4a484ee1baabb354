/** Whether the user wants the run to end. */
export type Interrupt = {
  /** True from the first Ctrl-C on: finish the step, close the table, say goodbye. */
  readonly requested: boolean
  /** Stops listening, so that nothing holds the process any more. */
  stop(): void
}

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const

// npm passes on a Ctrl-C that the terminal has already sent here: two signals, one key.
const sameKeyMilliseconds = 250

/**
 * Listens for Ctrl-C. The first one is only noted, and the run ends by itself, with exit code 130 as a shell
 * expects; a second one ends the process at once. `onFirst` may say that the first one was heard.
 */
export function watchInterrupt(onFirst: () => void = () => {}): Interrupt {
  let first: number | undefined

  function onSignal(signal: NodeJS.Signals): void {
    const exitCode = signal === 'SIGTERM' ? exitCodes.SIGTERM : exitCodes.SIGINT
    if (first === undefined) {
      first = performance.now()
      process.exitCode = exitCode
      onFirst()
    } else if (performance.now() - first > sameKeyMilliseconds) {
      process.exit(exitCode)
    }
  }

  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  return {
    get requested() {
      return first !== undefined
    },
    stop() {
      process.off('SIGINT', onSignal)
      process.off('SIGTERM', onSignal)
    },
  }
}
