import type { Shape } from './shape.ts'
import { type Operand, type Tensor, arange, binary } from './tensor.ts'
import { sizeOf } from './shape.ts'
import { unary } from './tensor.ts'

/**
 * Uniform random numbers in [0, 1), a pure function of the key and each element's index
 * (counter-based, as Salmon et al. 2011), so they do not depend on threads or on what ran before.
 * A key is an int32 number or scalar tensor.
 */
export function randomUniform(shape: Shape, key: Operand): Tensor {
  const counter = arange(sizeOf(shape)).reshape(...shape)
  return unary('bitsToUniform', binary('randomBits', counter, key))
}

/** Normal random numbers of mean 0, by the transform of Box and Muller (1958). */
export function randomNormal(shape: Shape, key: Operand, standardDeviation = 1): Tensor {
  const counter = arange(sizeOf(shape)).reshape(...shape)
  const [first, second] = [0, 1].map(half =>
    unary('bitsToUniform', binary('randomBits', counter.mul(2).add(half), key)),
  )
  const radius = first.neg().add(1).log().mul(-2).sqrt()
  return radius.mul(second.mul(2 * Math.PI).cos()).mul(standardDeviation)
}
