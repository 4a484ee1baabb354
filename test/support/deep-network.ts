/** Networks of many blocks, for tests: a step of training, and the same in plain loops. */
import {
  type Compiled,
  NDArray,
  type Tensor,
  type Variable,
  array,
  assign,
  compile,
  grad,
  norm,
  variable,
} from '../../engine/index.ts'

const [rows, width, rate] = [2, 4, 0.05]

/** A few numbers between -1 and 1, different ones for each start. */
const numbers = (count: number, start: number) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(1 + 12.9898 * (i + 1) + 78.233 * start))

export interface DeepNetwork {
  readonly train: Compiled<{ loss: Tensor; length: Tensor }>
  readonly weights: readonly Variable[]
  readonly scales: readonly Variable[]
  readonly x: NDArray
}

/**
 * Blocks x + scale · tanh(x · weight), and a step of gradient descent on their weights and scales whose gradient is
 * made to have a length of 1, as main.ts's is.
 */
export function deepNetwork(blocks: number): DeepNetwork {
  const weights = Array.from({ length: blocks }, (_, i) =>
    variable(array(numbers(width ** 2, i), [width, width])),
  )
  const scales = Array.from({ length: blocks }, () => variable(array(Float32Array.of(1 / blocks), [1])))
  const train = compile(({ x }) => {
    const y = weights.reduce((x, weight, i) => x.add(x.matmul(weight).tanh().mul(scales[i])), x)
    const loss = y.square().mean()
    const parameters = [...weights, ...scales]
    const gradients = grad(loss, parameters)
    const length = norm(gradients)
    parameters.forEach((parameter, i) => assign(parameter, parameter.sub(gradients[i].div(length).mul(rate))))
    return { loss, length }
  })
  return { train, weights, scales, x: array(numbers(rows * width, -1), [rows, width]) }
}

/** What a step of deepNetwork's gives and leaves, computed by loops over numbers. */
export function deepStep(blocks: number) {
  const weights = Array.from({ length: blocks }, (_, i) => [...numbers(width ** 2, i)])
  const scales = Array.from({ length: blocks }, () => Math.fround(1 / blocks))
  const inputs: number[][] = []
  const squashed: number[][] = []
  let x = [...numbers(rows * width, -1)]
  weights.forEach((weight, block) => {
    inputs.push(x)
    const made = x.map((_, at) => {
      const [row, column] = [Math.floor(at / width), at % width]
      let sum = 0
      for (let k = 0; k < width; k++) sum += x[row * width + k] * weight[k * width + column]
      return Math.tanh(sum)
    })
    squashed.push(made)
    x = x.map((value, at) => value + scales[block] * made[at])
  })
  const size = rows * width
  const loss = x.reduce((sum, value) => sum + value * value, 0) / size
  let gradient = x.map(value => (2 * value) / size)
  const weightGradients = weights.map(weight => weight.map(() => 0))
  const scaleGradients = scales.map(() => 0)
  for (let block = blocks - 1; block >= 0; block--) {
    const made = squashed[block]
    scaleGradients[block] = made.reduce((sum, value, at) => sum + value * gradient[at], 0)
    const inner = made.map((value, at) => gradient[at] * scales[block] * (1 - value * value))
    const passed = [...gradient]
    for (let row = 0; row < rows; row++) {
      for (let k = 0; k < width; k++) {
        for (let column = 0; column < width; column++) {
          const at = row * width + column
          weightGradients[block][k * width + column] += inputs[block][row * width + k] * inner[at]
          passed[row * width + k] += weights[block][k * width + column] * inner[at]
        }
      }
    }
    gradient = passed
  }
  const all = [...weightGradients.flat(), ...scaleGradients]
  const length = Math.sqrt(all.reduce((sum, value) => sum + value * value, 0))
  const stepped = (value: number, slope: number) => value - (rate * slope) / length
  return {
    loss,
    length,
    weights: weights.map((weight, i) => weight.map((value, j) => stepped(value, weightGradients[i][j]))),
    scales: scales.map((value, i) => stepped(value, scaleGradients[i])),
  }
}
