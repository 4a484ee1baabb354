/** The middle of some numbers, or the mean of the two in the middle. */
export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
}

/** Rows of cells in columns: words to the left, numbers to the right, a line under the first row. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = rows[0].map((_, i) => rows.map(row => row[i]))
  const widths = columns.map(cells => Math.max(...cells.map(cell => cell.length)))
  const isText = columns.map(cells => cells.slice(1).every(cell => !/^[+\d]/.test(cell)))
  const lines = rows.map(row =>
    row
      .map((cell, i) => (isText[i] ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
      .join('  ')
      .trimEnd(),
  )
  return [lines[0], widths.map(width => '-'.repeat(width)).join('  '), ...lines.slice(1)].join('\n')
}

/** A curve to plot: what marks it, and its points. */
export interface Curve {
  readonly mark: string
  readonly points: readonly (readonly [x: number, y: number])[]
}

/** Curves in plain characters, x from 0; what is outside the range of y is left out. */
export function plot(
  curves: readonly Curve[],
  { width = 70, height = 16, low, high }: { width?: number; height?: number; low: number; high: number },
): string {
  const right = Math.max(...curves.flatMap(curve => curve.points.map(([x]) => x)), 1e-9)
  const grid = Array.from({ length: height }, () => Array<string>(width).fill(' '))
  for (const { mark, points } of curves) {
    for (const [x, y] of interpolated(points, width)) {
      const row = Math.round(((high - y) / (high - low)) * (height - 1))
      const column = Math.round((x / right) * (width - 1))
      if (row >= 0 && row < height) grid[row][column] = mark
    }
  }
  const label = (row: number) => (high - ((high - low) * row) / (height - 1)).toFixed(2).padStart(6)
  const end = `${Math.round(right)} s`
  return [
    ...grid.map(
      (cells, row) =>
        `${row % 5 && row < height - 1 ? ' '.repeat(6) : label(row)} |${cells.join('').trimEnd()}`,
    ),
    `${' '.repeat(7)}+${'-'.repeat(width)}`,
    `${' '.repeat(8)}0${end.padStart(width - 1)}`,
  ].join('\n')
}

/** The points, and enough more on the straight lines between them to leave no gap. */
function interpolated(points: Curve['points'], width: number): (readonly [number, number])[] {
  return points.flatMap(([x, y], i) => {
    if (i === 0) return [[x, y] as const]
    const [x0, y0] = points[i - 1]
    return Array.from({ length: width }, (_, j) => {
      const part = (j + 1) / width
      return [x0 + (x - x0) * part, y0 + (y - y0) * part] as const
    })
  })
}
