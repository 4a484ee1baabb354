// Repeats code in WGSL.
/** 0, 1, ... count - 1. */
export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** A piece of code for each number below count. */
export const lines = (count: number, text: (index: number) => string, separator = '\n'): string =>
  range(count).map(text).join(separator)
