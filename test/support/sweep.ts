/** Compares a function of tensors with PyTorch at the points of a golden file that golden/sweep.py made. */
import assert from 'node:assert/strict'
import { type NDArray, type Tensor, array, compile, grad, variable } from '../../engine/index.ts'
import { gpuPrecision } from './backend.ts'
import { type Golden, readGolden } from '../golden/golden.ts'
import { isHalf } from './tolerance.ts'

/** A value, or a derivative with respect to one of the inputs: 'd_x' is the first, 'dd_x' the second. */
type Kind = string

/** Points at which a result is not PyTorch's. */
export interface Difference {
  /** Which result; the value unless it is said. */
  readonly kind?: Kind
  /** Of elementwise functions whether it is this point, of others whether it is this row or call, and element of it. */
  readonly at: (inputs: readonly number[], group: number, element: number) => boolean
  /** What the engine gives. `weight` is what the derivative at this element is multiplied by. */
  readonly ours: (inputs: readonly number[], weight: number, group: number, element: number) => number
  readonly why: string
}

/** A function, and how near its results have to be. */
export interface Case {
  readonly apply: (...inputs: Tensor[]) => Tensor
  /** How many units in the last place the value, a first and a second derivative may be off. */
  readonly ulps: readonly [value: number, first: number, second: number]
  /**
   * What a unit in the last place is counted of. 'each' number by default; where terms cancel, of the 'largest' of its row
   * or call, or of a number if a result is smaller.
   */
  readonly of?: readonly [value: Scale, first: Scale, second: Scale]
  /** How many products there are in a row, where the function has any: those of a GPU may be of float16. */
  readonly products?: number
  /** Random points are the absolute values of those in the file. */
  readonly isPositive?: boolean
  readonly differences?: readonly Difference[]
}

type Scale = 'each' | 'largest' | number

/** What the results of a function depend on, so that a GPU's rules for special numbers can be told apart. */
export type Reach = 'element' | 'row' | 'call' | 'moved'

/** The weights of golden/sweep.py: powers of two over and over. */
const weightAt = (i: number): number => [1, -2, 0.5, 4, -0.25][i % 5]
const weighing = new Map<string, Tensor>()
function weighted(x: Tensor): Tensor {
  const key = x.shape.join()
  const weights =
    weighing.get(key) ??
    variable(
      array(
        Float32Array.from({ length: x.size }, (_, i) => weightAt(i)),
        x.shape,
      ),
    )
  weighing.set(key, weights)
  return x.mul(weights).sum()
}

function compiled(apply: Case['apply'], leaves: readonly string[], order: 1 | 2) {
  return compile(inputs => {
    const asked = leaves.map(name => inputs[name])
    const value = apply(...asked)
    const first = grad(weighted(value), asked)
    const results: [Kind, Tensor][] = [
      ['', value],
      ...first.map((g, i): [Kind, Tensor] => [`d_${leaves[i]}`, g]),
    ]
    if (order === 2) {
      const second = grad(
        first.map(weighted).reduce((a, b) => a.add(b)),
        asked,
      )
      second.forEach((g, i) => results.push([`dd_${leaves[i]}`, g]))
    }
    return Object.fromEntries(results)
  })
}

const isCpu = gpuPrecision === undefined
const smallestNormal = 2 ** -126

/** Whether a GPU has to compute with a number as it is: no subnormal, infinity or NaN. */
const isPlain = (x: number): boolean => x === 0 || (Math.abs(x) >= smallestNormal && Math.abs(x) < Infinity)

/** Beside that, whether its square is one too; of float16 whether it is a normal number. */
const isPlainOperand = (x: number): boolean =>
  isPlain(x) &&
  isPlain(Math.fround(x * x)) &&
  (!isHalf || x === 0 || (Math.abs(x) > 1e-4 && Math.abs(x) < 6e4))

/** The distance of a float32 of this size to the next. */
const unitOf = (size: number): number =>
  size < smallestNormal ? 2 ** -149 : 2 ** (Math.floor(Math.log2(Math.min(size, 3.4e38))) - 23)

/** GPUs' exponentials, sines and divisions are off by a few units more than the CPU's, and sums are in another order. */
const moreOnGpu = 6

const files = new Map<string, Golden>()

/** The golden file of a family. */
export function goldenOf(family: string): Golden {
  const golden = files.get(family) ?? readGolden(`sweep_${family}`)
  files.set(family, golden)
  return golden
}

interface Comparison {
  readonly name: string
  readonly kind: Kind
  readonly test: Case
  readonly reach: Reach
  readonly inputs: readonly (readonly number[])[]
  readonly actual: ArrayLike<number>
  readonly expected: ArrayLike<number>
  /** Rows, if the results are of rows, and the number of the first one, or of the call. */
  readonly groups: number
  readonly first: number
  readonly isSpecial: boolean
}

/** What is not PyTorch's in some results, as sentences; `met` takes the differences that were found. */
function faultsOf(comparison: Comparison, met: Set<Difference>): string[] {
  const { name, kind, test, reach, inputs, actual, expected, groups, first, isSpecial } = comparison
  assert.equal(actual.length, expected.length, name)
  const order = kind === '' ? 0 : kind.startsWith('dd_') ? 2 : 1
  const [ulps, scale] = [test.ulps[order], test.of?.[order] ?? 'each']
  const half = isHalf && test.products !== undefined ? 4 * 2 ** 12 * Math.sqrt(test.products) : 0
  const allowed = isCpu ? ulps : ulps + moreOnGpu + half
  // The sign of a zero counts in values of elementwise functions, and where numbers are only moved.
  const isSigned = isCpu && kind === '' && (reach === 'element' || reach === 'moved')
  const size = expected.length / groups
  const faults: string[] = []
  for (let group = 0; group < groups; group++) {
    // What all rows share belongs to each.
    const row = inputs.map(input => (input.length % groups === 0 ? part(input, group, groups) : input)).flat()
    const isJoint = reach === 'row' || reach === 'call'
    if (!isCpu && isSpecial && isJoint && !row.every(isPlainOperand)) continue
    const own = part(Array.from(expected), group, groups)
    const largest = own.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0)
    const least = scale === 'each' ? 0 : scale === 'largest' ? largest : scale
    own.forEach((wanted, element) => {
      const index = group * size + element
      const at = reach === 'element' ? inputs.map(input => input[index]) : row
      if (!isCpu && !(isPlain(wanted) && (reach !== 'element' || at.every(isPlain)))) return
      const got = actual[index]
      const off = (value: number) => distance(got, value, least, isSigned)
      const shown =
        reach === 'element' ? at.map(showNumber).join(', ') : `${first + group}, element ${element}`
      const where = `${isSpecial ? '' : 'random points, '}${kind || 'value'} at ${shown}`
      const declared = isSpecial
        ? test.differences?.find(
            difference => (difference.kind ?? '') === kind && difference.at(at, first + group, element),
          )
        : undefined
      if (!declared) {
        if (!(off(wanted) <= allowed))
          faults.push(`${where}: ${got}, PyTorch has ${wanted}: ${off(wanted)} units off, of ${allowed}`)
        return
      }
      met.add(declared)
      const ours = declared.ours(at, weightAt(index), first + group, element)
      // Zeros of unlike signs are the same there.
      if (!isCpu && (!isPlain(ours) || ours === wanted)) return
      if (!(off(ours) <= allowed)) faults.push(`${where}: ${got}, and the differences have ${ours}`)
      if (off(wanted) <= allowed) faults.push(`${where}: PyTorch has ${wanted} too: it is no difference`)
    })
  }
  return faults
}

/** How many units in the last place two numbers are apart, units of the expected number or of the least size. */
function distance(got: number, expected: number, least: number, isSigned: boolean): number {
  if (Object.is(got, expected) || (got === expected && !isSigned)) return 0
  const off = Math.abs(got - expected) / unitOf(Math.max(Math.abs(expected), least))
  // Zeros of unlike signs, infinities and NaN.
  return off > 0 && off < Infinity ? off : Infinity
}

const showNumber = (x: number): string => (Object.is(x, -0) ? '-0' : String(x))

/** One of so many equal parts. */
const part = (list: readonly number[], index: number, count: number): number[] =>
  list.slice((index * list.length) / count, ((index + 1) * list.length) / count)

/** A result's name in a golden file. */
const nameOf = (name: string, kind: Kind): string => (kind === '' ? name : kind.replace('_', `_${name}_`))

const arrayOf = (golden: Golden, name: string): NDArray => {
  const { data, shape } = golden.float(name)
  return array(data, shape)
}

/** A family's special points: its inputs, or else all pairs of 'points'. */
function specialPoints(golden: Golden, leaves: readonly string[]): NDArray[] {
  if (golden.has(leaves[0])) return leaves.map(leaf => arrayOf(golden, leaf))
  const { data } = golden.float('points')
  const n = data.length
  const pairs = (of: (i: number) => number) =>
    array(
      Float32Array.from({ length: n * n }, (_, i) => data[of(i)]),
      [n, n],
    )
  return [pairs(i => Math.floor(i / n)), pairs(i => i % n)]
}

/** Entry i of the leading axis. */
function entry({ data, shape }: NDArray, i: number): NDArray {
  const size = data.length / shape[0]
  return array(Float32Array.from(data.subarray(i * size, (i + 1) * size)), shape.slice(1))
}

/**
 * Runs a function at a family's special points, with first derivatives, and at its random ones, with second ones too, and
 * compares them with the golden file. Throws where one is not PyTorch's, or a difference is none. leaves: its inputs' names.
 */
export async function sweep(
  family: string,
  name: string,
  test: Case,
  leaves: readonly string[],
  reach: Reach,
): Promise<void> {
  const golden = goldenOf(family)
  const met = new Set<Difference>()
  const faults: string[] = []
  const compare = async (
    run: ReturnType<typeof compiled>,
    points: readonly NDArray[],
    { isSpecial, call, calls }: { isSpecial: boolean; call: number; calls: number },
  ) => {
    const results = await run(Object.fromEntries(points.map((x, i) => [leaves[i], x])))
    for (const [kind, { data }] of Object.entries(results)) {
      const all = golden.float((isSpecial ? '' : 'random_') + nameOf(name, kind)).data
      const rows = reach === 'row' ? points[0].shape[0] : 1
      const comparison = {
        name,
        kind,
        test,
        reach,
        inputs: points.map(({ data }) => [...data]),
        actual: data,
        expected: part([...all], call, calls),
        // A weight's gradient is of no row.
        groups: data.length % rows === 0 ? rows : 1,
        first: call,
        isSpecial,
      }
      faults.push(...faultsOf(comparison, met))
    }
  }
  if (golden.has(name)) {
    const points = specialPoints(golden, leaves)
    const run = compiled(test.apply, leaves, 1)
    const calls = reach === 'call' ? points[0].shape[0] : 1
    for (let call = 0; call < calls; call++)
      await compare(run, reach === 'call' ? points.map(x => entry(x, call)) : points, {
        isSpecial: true,
        call,
        calls,
      })
  }
  const random = leaves.map(leaf => arrayOf(golden, `random_${leaf}`))
  const points = test.isPositive
    ? random.map(({ data, shape }) => array(Float32Array.from(data, Math.abs), shape))
    : random
  const apply = reach === 'moved' ? (...inputs: Tensor[]) => test.apply(...inputs).square() : test.apply
  await compare(compiled(apply, leaves, 2), points, { isSpecial: false, call: 0, calls: 1 })
  const unmet = (test.differences ?? []).filter(difference => isCpu && !met.has(difference))
  faults.push(...unmet.map(({ why }) => `no point has the difference that ${why}`))
  assert.ok(faults.length === 0, `${name}: ${faults.slice(0, 20).join('\n')}`)
}
