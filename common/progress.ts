/** What a progress line needs of a terminal: process.stdout is one. */
export type Screen = {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
}

/** Columns of a terminal; undefined where there is none, or where it does not know (it then says 0). */
export const columnsOf = (screen: Screen): number | undefined =>
  screen.isTTY && screen.columns ? screen.columns : undefined

export type Progress = {
  /** Redraws the line: how much is done (0 to 1), and what to say beside it. */
  update(done: number, status: string): void
  /** Prints a line of output above it. All other output goes through here, or after clear(). */
  print(line: string): void
  clear(): void
}

const secondsBetweenDraws = 0.1
const eraseLine = '\r\x1b[K'

/**
 * One line at the foot of a terminal that tells how far the run is; nothing where there is no terminal, or where it
 * cannot erase a line (TERM=dumb, as in an editor's shell).
 */
export function createProgress(
  screen: Screen = process.stdout,
  now = () => performance.now() / 1000,
  terminal = process.env.TERM,
): Progress {
  const isShown = screen.isTTY === true && terminal !== 'dumb'
  const start = now()
  let lastDraw = -Infinity
  let drawn = false

  function clear(): void {
    if (!drawn) return
    screen.write(eraseLine)
    process.off('uncaughtExceptionMonitor', clear)
    drawn = false
  }

  return {
    update(done, status) {
      if (!isShown || now() - lastDraw < secondsBetweenDraws) return
      lastDraw = now()
      // An error ends the run with the line still there: its message must not be written into it.
      if (!drawn) process.on('uncaughtExceptionMonitor', clear)
      drawn = true
      const room = (columnsOf(screen) ?? 80) - 1
      screen.write(eraseLine + progressLine(done, status, now() - start).slice(0, room))
    },
    print(line) {
      clear()
      screen.write(`${line}\n`)
      lastDraw = -Infinity // what was cleared comes back at once
    },
    clear,
  }
}

function progressLine(done: number, status: string, elapsed: number): string {
  const share = Math.min(1, Math.max(0, done))
  const cells = 20
  const filled = Math.floor(share * cells)
  const bar = '█'.repeat(filled) + '░'.repeat(cells - filled)
  const left = share > 0 ? `${duration((elapsed * (1 - share)) / share)} left` : ''
  return `${bar} ${Math.floor(share * 100)}%  ${left}  ${status}`
}

/** Seconds as a person reads them: 0:07, 2:59, 1:02:30. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds)
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor(whole / 60) % 60
  const parts = hours > 0 ? [hours, String(minutes).padStart(2, '0')] : [minutes]
  return [...parts, String(whole % 60).padStart(2, '0')].join(':')
}
