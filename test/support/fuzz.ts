/** Random graphs, written once for the engine and for the reference. */
import type { Maths, Tools } from './reference.ts'
import type { Shape } from '../../engine/index.ts'

type Random = () => number

const choose = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)]

const sizeOf = (shape: Shape) => shape.reduce((a, b) => a * b, 1)

/** Shapes that reach blocks of rows, vectors of eight, of four, and single lanes. */
export interface Extents {
  readonly rows: number
  readonly columns: number
}

export function randomExtents(random: Random): Extents {
  const rows = choose(random, random() < 0.4 ? [384, 401, 433, 600] : [1, 2, 3, 5, 12, 49, 97])
  return { rows, columns: choose(random, rows > 300 ? [1, 2, 4, 9, 17] : [1, 2, 3, 4, 7, 8, 9, 16, 24, 33]) }
}

/** The inputs' shapes for such extents. */
export const inputShapes = ({ rows, columns }: Extents): Shape[] => [
  [rows, columns],
  [rows, columns],
  [columns],
  [rows, 1],
  [],
  [columns, columns],
]

const largest = 60_000

/**
 * A random graph over inputs, in which every tensor stays of moderate size: the values made, inputs
 * first. The choices depend on the random numbers and the shapes alone. smooth: without kinks.
 */
export function randomGraph<T extends Maths<T>>(
  f: Tools<T>,
  inputs: readonly T[],
  steps: number,
  random: Random,
  smooth: boolean,
): T[] {
  const made = [...inputs]
  const recent = () => made[Math.max(0, made.length - 1 - Math.floor(random() ** 2 * made.length))]
  /** Another value that broadcasts with x. */
  const partner = (x: T): T => {
    const fits = made.filter(({ shape }) =>
      shape.every((extent, i) => {
        const other = x.shape.at(i - shape.length)
        return i - shape.length + x.shape.length < 0 || extent === 1 || other === 1 || extent === other
      }),
    )
    return choose(random, random() < 0.5 ? fits.slice(-4) : fits)
  }
  const unary: ((x: T) => T)[] = [
    x => x.tanh(),
    x => x.sin(),
    x => x.cos(),
    x => x.neg(),
    x => x.square().mul(0.5),
    x => x.square().add(0.5).sqrt(),
    x => x.square().add(0.5).log(),
    x => x.square().add(1).reciprocal(),
    x => x.tanh().exp(),
    x => x.erf(),
    x => x.add(1),
    x => f.gelu(x),
    ...(smooth ? [] : [(x: T) => x.abs(), (x: T) => f.relu(x), (x: T) => x.maximum(0.25)]),
  ]
  const binary: ((x: T, y: T) => T)[] = [
    (x, y) => x.add(y).mul(0.5),
    (x, y) => x.sub(y),
    (x, y) => x.tanh().mul(y),
    (x, y) => x.div(y.square().add(0.5)).tanh(),
    (x, y) => f.where(inputs[0].sum(0).reshape(-1).slice(0, 0, 1).less(0.1).and(f.arange(1).less(5)), x, y),
    ...(smooth ? [] : [(x: T, y: T) => x.maximum(y), (x: T, y: T) => x.minimum(y).add(x)]),
  ]
  const last = (x: T) => x.shape.length - 1
  const axis = (x: T) => Math.floor(random() * x.shape.length)
  const operations: (() => T | undefined)[] = [
    () => choose(random, unary)(recent()),
    () => choose(random, unary)(recent()),
    () => {
      const x = recent()
      return choose(random, binary)(x, partner(x))
    },
    () => {
      const x = recent()
      return choose(random, binary)(partner(x), x)
    },
    // Reductions.
    () => {
      const x = recent()
      const name = smooth || random() < 0.7 ? 'mean' : 'max'
      if (x.shape.length === 0) return undefined
      return x[name](random() < 0.6 ? last(x) : axis(x), random() < 0.7)
    },
    () => {
      const x = recent()
      return random() < 0.3 ? x.mean() : x.shape.length > 0 ? x.mean(0) : undefined
    },
    () => {
      const x = recent()
      return x.shape.length === 0
        ? undefined
        : choose(random, [f.layerNorm, f.softmax, f.rmsNorm])(x.mul(2), 0.1)
    },
    // Products.
    () => {
      const x = recent()
      if (x.shape.length < 2) return undefined
      const k = x.shape[last(x)]
      const fits = made.filter(({ shape }) => shape.length === 2 && (shape[0] === k || shape[1] === k))
      if (fits.length === 0) return undefined
      const w = choose(random, fits)
      const straight = w.shape[0] === k && (w.shape[1] !== k || random() < 0.5)
      if (x.size * w.shape[straight ? 1 : 0] > 4_000_000) return undefined
      const product = x.mul(1 / Math.sqrt(k)).matmul(straight ? w : w.T)
      const residuals = made.filter(({ shape }) => shape.join() === product.shape.join())
      if (residuals.length === 0 || random() < 0.3) return product
      return random() < 0.5 ? product.add(choose(random, residuals)) : choose(random, residuals).add(product)
    },
    // A block of a network, over inputs of inputShapes().
    () => {
      const [x, columns] = [recent(), inputs[0].shape[1]]
      if (x.shape.join() !== inputs[0].shape.join() || columns < 2) return undefined
      const normed = (random() < 0.5 ? f.layerNorm(x, 0.1) : f.rmsNorm(x, 0.1)).mul(inputs[2])
      const hidden = normed.matmul(f.concat([inputs[5].T, inputs[5].mul(0.5)], 1)).mul(1 / Math.sqrt(columns))
      const [a, b] = hidden.split([columns, columns])
      const gated = a.mul(f.gelu(b))
      const mixed =
        random() < 0.5 ? gated : f.concat([gated.slice(1, 1, columns).tanh(), gated.slice(1, 0, 1)])
      return x.add(mixed.matmul(inputs[5]))
    },
    () => {
      const x = recent()
      if (x.shape.length < 2 || x.size * x.shape[last(x)] > 1_000_000) return undefined
      return x.T.matmul(x).mul(1 / x.shape[last(x) - 1])
    },
    () => {
      const x = recent()
      if (x.shape.length < 3) return undefined
      const other = choose(
        random,
        made.filter(({ shape }) => shape.join() === x.shape.join()),
      )
      return x.matmul(other.T).mul(1 / x.shape[last(x)])
    },
    // Movements.
    () => {
      const x = recent()
      return x.shape.length < 2 ? undefined : x.transpose(axis(x), axis(x))
    },
    () => {
      const x = recent()
      if (x.shape.length === 0) return undefined
      const at = axis(x)
      const extent = x.shape[at]
      const start = Math.floor(random() * extent)
      return x.slice(at, start, start + 1 + Math.floor(random() * (extent - start)))
    },
    () => {
      const x = recent()
      if (x.shape.length === 0) return undefined
      const at = random() < 0.6 ? last(x) : axis(x)
      const fits = made.filter(
        ({ shape }) =>
          shape.length === x.shape.length && shape.every((extent, i) => i === at || extent === x.shape[i]),
      )
      const pieces = Array.from({ length: 1 + Math.floor(random() * 3) }, () => choose(random, fits))
      return f.concat([x, ...pieces], at)
    },
    () => {
      const x = recent()
      if (x.shape.length === 0 || x.shape[last(x)] < 2) return undefined
      const cut = 1 + Math.floor(random() * (x.shape[last(x)] - 1))
      const [a, b] = x.split([cut, x.shape[last(x)] - cut])
      made.push(a.tanh())
      return random() < 0.5 ? f.concat([b.sin(), a]) : b
    },
    () => {
      const x = recent()
      const factor = [2, 3, 4, 5].find(n => x.size % n === 0)
      return random() < 0.3 || !factor
        ? x.reshape(-1)
        : x.reshape(...(random() < 0.5 ? [factor, -1] : [-1, factor]))
    },
    () => {
      const x = recent()
      const factor = [2, 3, 4, 5].find(n => x.shape.length > 0 && x.shape[last(x)] % n === 0)
      return factor ? x.reshape(...x.shape.slice(0, -1), factor, x.shape[last(x)] / factor) : undefined
    },
    () => {
      const x = recent()
      return x.size > 2000 ? undefined : x.broadcastTo([choose(random, [2, 3]), ...x.shape])
    },
    // Rows by index, some outside of the table.
    () => {
      const x = recent()
      if (x.shape.length !== 2) return undefined
      const rows = choose(random, [1, 3, 17])
      const picked = f.arange(rows).mul(7).sub(2)
      return x.gather(random() < 0.5 ? picked : picked.reshape(1, rows))
    },
    () => {
      const x = recent()
      if (x.shape.length === 0) return undefined
      return x.mul(
        f
          .arange(x.shape[last(x)])
          .toFloat()
          .mul(1 / x.shape[last(x)]),
      )
    },
  ]
  for (let i = 0; i < steps; i++) {
    const tensor = choose(random, operations)()
    if (tensor && tensor.size > 0 && tensor.size <= largest && tensor.shape.length < 5) made.push(tensor)
  }
  return made
}

export { choose, sizeOf }
