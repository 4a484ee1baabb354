/** How one column looks. */
export type Column = {
  heading: string
  /** Room for a value: the column is as wide as this or its heading, whichever is wider. */
  width: number
  format: (value: number) => string
  /** On a terminal too narrow for every column, those with the highest number go first. One without it stays. */
  spare?: number
}

/** The values of a row; what is missing stays blank. */
export type Row<Columns> = { [Name in keyof Columns]?: number | undefined }

export type Table<Columns> = {
  /** Prints a row; ahead of the first one, the headings. */
  row(values: Row<Columns>): void
  /** Prints the last rule, once. */
  close(): void
}

/** hlb-gpt's columns, and what a byte costs and the machine gives. */
export const trainingColumns = {
  epoch: { heading: 'epoch', width: 5, format: decimals(2), spare: 5 },
  step: { heading: 'step', width: 6, format: decimals(0), spare: 1 },
  trainLoss: { heading: 'train_loss', width: 6, format: loss(3), spare: 2 },
  valLoss: { heading: 'val_loss', width: 6, format: loss(4) },
  valPerplexity: { heading: 'val_perplexity', width: 8, format: perplexity, spare: 9 },
  trainAccuracy: { heading: 'train_acc', width: 5, format: decimals(3), spare: 7 },
  valAccuracy: { heading: 'val_acc', width: 5, format: decimals(3), spare: 6 },
  gradNorm: { heading: 'grad_norm', width: 6, format: gradNorm, spare: 8 },
  bitsPerByte: { heading: 'bits/byte', width: 5, format: decimals(3), spare: 10 },
  tokensPerSecond: { heading: 'tokens/s', width: 8, format: decimals(0), spare: 4 },
  peakShare: { heading: '% peak', width: 5, format: percent, spare: 11 },
  seconds: { heading: 'seconds', width: 7, format: decimals(1), spare: 3 },
} satisfies Record<string, Column>

/**
 * A table whose rows are printed as they come, like hlb-gpt's. `print` writes a line; `width` is what a line
 * holds: the padding goes first, then the columns that can be spared.
 */
export function createTable<Columns extends Record<string, Column>>(
  columns: Columns,
  print: (line: string) => void,
  width = Infinity,
): Table<Columns> {
  const names: (keyof Columns)[] = Object.keys(columns)
  const shown = fitting(columns, names, width)
  const padding = tableWidth(columns, shown, 1) <= width ? ' ' : ''
  const rule = '-'.repeat(tableWidth(columns, shown, padding.length))
  let open = false

  function printLine(cell: (name: keyof Columns) => string): void {
    const cells = shown.map(name => padding + cell(name).padStart(columnWidth(columns[name]!)) + padding)
    print(`|${cells.join('|')}|`)
  }

  return {
    row(values) {
      if (!open) {
        open = true
        print(rule)
        printLine(name => columns[name]!.heading)
        print(rule)
      }
      printLine(name => {
        const value = values[name]
        return value === undefined ? '' : columns[name]!.format(value)
      })
    },
    close() {
      if (open) print(rule)
      open = false
    },
  }
}

function fitting<Columns extends Record<string, Column>>(
  columns: Columns,
  names: (keyof Columns)[],
  width: number,
): (keyof Columns)[] {
  if (tableWidth(columns, names, 0) <= width) return names
  const sparest = Math.max(...names.map(name => columns[name]!.spare ?? 0))
  if (sparest === 0) return names
  return fitting(
    columns,
    names.filter(name => columns[name]!.spare !== sparest),
    width,
  )
}

function tableWidth<Columns extends Record<string, Column>>(
  columns: Columns,
  names: (keyof Columns)[],
  padding: number,
): number {
  return names.reduce((sum, name) => sum + columnWidth(columns[name]!) + 2 * padding + 1, 1)
}

function columnWidth(column: Column): number {
  return Math.max(column.heading.length, column.width)
}

function decimals(digits: number): (value: number) => string {
  return value => value.toFixed(digits)
}

/** The loss of a network that diverges has more digits than matter. */
function loss(digits: number): (value: number) => string {
  return value => (value < 1e5 ? value.toFixed(digits) : value.toExponential(1))
}

function percent(value: number): string {
  return (100 * value).toFixed(1)
}

/** e to the loss of an untrained network, or of one that diverges, has more digits than matter. */
function perplexity(value: number): string {
  return value < 1e5 ? value.toFixed(value < 100 ? 3 : 1) : value.toExponential(1)
}

function gradNorm(value: number): string {
  return value >= 1e-3 && value < 1e3 ? value.toFixed(3) : value.toExponential(1)
}
