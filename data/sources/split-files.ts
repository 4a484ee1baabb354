/** Finds the training and the validation file of a text by their usual names. */
import { UserError } from '../../common/errors.ts'

/** The usual names, in the order in which they are looked for. */
const usualNames = [
  ['wiki.train.raw', 'wiki.valid.raw'],
  ['train.txt', 'valid.txt'],
  ['train.txt', 'val.txt'],
] as const
const expected = 'wiki.train.raw and wiki.valid.raw, or train.txt and valid.txt'

/** Whether some files include both splits of a text. */
export function hasSplits(names: readonly string[]): boolean {
  return usualNames.some(pair => pair.every(name => names.includes(name)))
}

/** Opens both splits of a text. Throws a UserError that says which one is missing. */
export async function openSplits<T>(
  where: string,
  names: readonly string[],
  openFile: (name: string) => Promise<T>,
): Promise<[train: T, validation: T]> {
  const [pair, other] = usualNames.filter(pair => pair.every(name => names.includes(name)))
  if (pair && other) {
    const both = `${pair.join(' and ')}, and ${other.join(' and ')}`
    throw new UserError(`${where} has ${both}: one of them has to go, since either may be meant.`)
  }
  if (pair) return [await openFile(pair[0]), await openFile(pair[1])]
  const partial = usualNames.find(pair => pair.some(name => names.includes(name)))
  if (!partial) throw new UserError(`${where} has no text to train on: --data takes one with ${expected}.`)
  const [there, missing] = names.includes(partial[0]) ? partial : partial.toReversed()
  throw new UserError(`${where} has ${there} but no ${missing}, which it takes too.`)
}
