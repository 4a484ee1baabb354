import { UserError } from '../../common/errors.ts'

/** What the two halves of a text are called, in the order in which they are looked for. */
const textNames = [
  ['wiki.train.raw', 'wiki.valid.raw'],
  ['train.txt', 'valid.txt'],
  ['train.txt', 'val.txt'],
] as const
const expected = 'wiki.train.raw and wiki.valid.raw, or train.txt and valid.txt'

/** Whether both halves of a text are among some files. */
export function hasHalves(names: readonly string[]): boolean {
  return textNames.some(pair => pair.every(name => names.includes(name)))
}

/** The two files that make a corpus, opened; a UserError that says what is missing. */
export async function openHalves<T>(
  where: string,
  names: readonly string[],
  openFile: (name: string) => Promise<T>,
): Promise<[train: T, validation: T]> {
  const [pair, other] = textNames.filter(pair => pair.every(name => names.includes(name)))
  if (pair && other) {
    const both = `${pair.join(' and ')}, and ${other.join(' and ')}`
    throw new UserError(`${where} has ${both}: one of them has to go, since either may be meant.`)
  }
  if (pair) return [await openFile(pair[0]), await openFile(pair[1])]
  const half = textNames.find(pair => pair.some(name => names.includes(name)))
  if (!half) throw new UserError(`${where} has no text to train on: --data takes one with ${expected}.`)
  const [there, missing] = names.includes(half[0]) ? half : half.toReversed()
  throw new UserError(`${where} has ${there} but no ${missing}, which it takes too.`)
}
