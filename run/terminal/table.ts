/** Prints the rows of a run as a table. */

/** A column of the table. */
export type Column = {
  heading: string
  /** The width of a value. The column is as wide as this or its heading, whichever is wider. */
  width: number
  format: (value: number) => string
  /** On a terminal that is too narrow, the column with the highest number is dropped first. Without one, it stays. */
  spare?: number
}

/** The values of a row. A missing one stays blank. */
export type Row<Columns> = { [Name in keyof Columns]?: number | undefined }

export type Table<Columns> = {
  /** Prints a row, and the headings before the first one. */
  row(values: Row<Columns>): void
  /** Prints the rule below the last row, once. */
  close(): void
}

/**
 * A table whose rows are printed as they arrive, like hlb-gpt's. `print` writes a line of at most `width` columns: where
 * the table is wider, the padding is dropped first, then columns by their `spare`.
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
