/** 0, 1, ... count - 1. */
export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Code that is written out so many times, each with its number. */
export const lines = (count: number, text: (index: number) => string, separator = '\n'): string =>
  range(count).map(text).join(separator)
