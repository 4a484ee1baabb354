/** The progress line at the bottom of a terminal. */

/** The part of a terminal that a progress line uses; process.stdout has it. */
export type Screen = {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
}

/** The width of a terminal in columns; undefined if there is no terminal, or if it reports 0 (unknown). */
export const columnsOf = (screen: Screen): number | undefined =>
  screen.isTTY && screen.columns ? screen.columns : undefined

export type Progress = {
  /** Redraws the line, with the share that is done (0 to 1) and a status text. */
  update(done: number, status: string): void
  /** Prints a line above it. Other output must go through here, or follow clear(). */
  print(line: string): void
  clear(): void
}

const secondsBetweenDraws = 0.1
const eraseLine = '\r\x1b[K'

/**
 * A line at the bottom of the terminal that shows the progress of some work. It shows nothing without a terminal, or on
 * one that cannot erase a line (TERM=dumb, as in an editor's shell).
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
      // An error message must not be printed into the line.
      if (!drawn) process.on('uncaughtExceptionMonitor', clear)
      drawn = true
      const room = (columnsOf(screen) ?? 80) - 1
      screen.write(eraseLine + progressLine(done, status, now() - start).slice(0, room))
    },
    print(line) {
      clear()
      screen.write(`${line}\n`)
      lastDraw = -Infinity // draw again at the next update
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

/** Seconds in minutes and hours: 0:07, 2:59, 1:02:30. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds)
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor(whole / 60) % 60
  const parts = hours > 0 ? [hours, String(minutes).padStart(2, '0')] : [minutes]
  return [...parts, String(whole % 60).padStart(2, '0')].join(':')
}
